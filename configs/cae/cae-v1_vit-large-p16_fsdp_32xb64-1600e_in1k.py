# CAE, ViT-L/16, ImageNet-1K, as its parent, with weights, gradients and optimizer state spread over the GPUs (FSDP).
# Not run by us at this size; tests/test_house/test_fsdp.py trains it small, on two processes without a GPU.
_base_ = './cae-v1_vit-large-p16_32xb64-1600e_in1k.py'

strategy = dict(
    type='FSDPStrategy',
    state_dict_cfg='full',  # checkpoints as those of other runs: whole tensors, written by the first process
    model_wrapper=dict(
        type='MMFullyShardedDataParallel',
        # A unit for each layer of encoder, regressor and decoder (12.6 million weights), and one for the rest. The parts
        # around the layers must stay in that one: the model calls other methods of theirs than forward.
        auto_wrap_policy=dict(type='torch.distributed.fsdp.wrap.size_based_auto_wrap_policy', min_num_params=12_000_000)))

optim_wrapper = dict(
    type='mmplugins.utils.running.sharded.ShardedAmpOptimWrapper',
    use_fsdp=True,
    paramwise_cfg=dict(
        # Sharded weights all have one dimension; those that had before are named.
        flat_decay_mult=None,
        custom_keys=dict(gamma_=dict(decay_mult=0.0), q_bias=dict(decay_mult=0.0), v_bias=dict(decay_mult=0.0))))
