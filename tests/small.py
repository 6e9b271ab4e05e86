"""Overrides that make a training a matter of seconds."""

SMALL = [
    "dataset=folder",
    "backbone.name=resnet10t",
    "+backbone.kwargs.channels=[8,16,32,64]",
    "start=random",
    "ssl.views=2",
    "pretrain.batch_size=16",
    "pretrain.image_size=16",
    "pretrain.probes=0",
    "pretrain.pictures=0",
    "pretrain.log_every=1",
    "tracker=csv",
]
TRAIN = ["task=pretrain", *SMALL]
