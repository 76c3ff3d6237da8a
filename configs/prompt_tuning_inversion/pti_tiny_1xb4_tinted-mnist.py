# Prompt Tuning Inversion with the tiny model of this package on twelve tinted digits (tests/data/pti). Small: 1 process x 4
# images, about two minutes on a CPU.
_base_ = './_base_/edit.py'

model = dict(
    type='PromptTuningInversion',
    parts=dict(type='DiffusionParts', pretrained='tiny'),
    num_steps=20,  # ours: the tiny model needs no more
    guidance=5.0,
    inner_steps=10,
    lr=3e-2,  # ours: its embeddings take longer steps than Stable Diffusion's
    eta=(0.3, 0.5, 0.7))
test_dataloader = dict(
    batch_size=4,
    num_workers=0,
    dataset=dict(
        type='EditPairDataset',
        data_root='{{ fileDirname }}/../../tests/data/pti',
        ann_file='pairs.json',
        pipeline=[dict(type='LoadEditImage', size=32, multiple=8)]))
test_evaluator = [dict(type='EditPSNR'), dict(type='EditSSIM'), dict(type='TintedDigitAccuracy')]
