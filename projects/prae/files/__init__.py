"""Results and annotations on disk: COCO, PASCAL VOC, pickles of mmdet."""
