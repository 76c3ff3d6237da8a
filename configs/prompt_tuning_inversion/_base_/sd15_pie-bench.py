# Stable Diffusion 1.5 on PIE-Bench (700 images of 512 x 512). Needs two folders that are not part of this repository:
# SD15_FOLDER, a diffusers folder, and PIE_BENCH, which holds mapping_file.json and annotation_images/. With
# `--cfg-options model.cache.folder=work_dirs/inversions model.cache.max_bytes=10000000000` inversions are kept (12 MB an
# image), so that a run that was stopped goes on when it is started again.
_base_ = './edit.py'

model = dict(
    parts=dict(type='DiffusionParts', pretrained='{{$SD15_FOLDER:data/stable-diffusion-v1-5}}', arch='sd1', dtype='fp16'),
    num_steps=50,  # public code of the neighbors
    guidance=7.5,
    eta=(0.5, 0.7, 0.9))
test_dataloader = dict(
    dataset=dict(
        type='EditPairDataset',
        data_root='{{$PIE_BENCH:data/PIE-Bench_v1}}',
        ann_file='mapping_file.json',
        pipeline=[dict(type='LoadEditImage', size=512, multiple=64, resize='stretch')]))
# The seven of the benchmark, by its formulas. Those that need a network say so and are left out without its weights;
# they stay on the CPU unless they are given `device='cuda'`.
test_evaluator = [
    dict(type='EditStructureDistance', pretrained='{{$DINO_FOLDER:data/dino-vitb8}}'),
    dict(type='EditPSNR'),
    dict(type='EditLPIPS', net='squeeze', backbone='{{$LPIPS_BACKBONE:data/squeezenet1_1.pth}}'),
    dict(type='EditMSE'),
    dict(type='EditSSIM'),
    dict(type='EditCLIPScore', pretrained='{{$CLIP_FOLDER:data/clip-vit-large-patch14}}'),
    dict(type='EditCLIPScore', pretrained='{{$CLIP_FOLDER:data/clip-vit-large-patch14}}', edited_part=True)
]
