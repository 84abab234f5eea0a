"""recipes/plan.py: the arithmetic of a large training against models and a file that exist."""

import pytest

import models_zoo
from engine_loop import trainable_parameters
from models_sizes import SIZES
from recipes import plan


def test_weights_are_those_of_the_model():
    model = models_zoo.autoencoder('mae_vit_nano_patch8')
    assert plan.Plan('mae_vit_nano_patch8').weights == trainable_parameters(model)


def test_weights_of_vit_large_are_those_that_a_training_prints():
    assert plan.parameters(SIZES['large_patch16']) == 329_239_296


def test_what_is_sent_and_held_by_hand():
    two = plan.Plan('mae_vit_base_patch16', devices=2)
    shared = plan.Plan('mae_vit_base_patch16', devices=2, shard_optimizer=True)
    assert two.sent == 4 * 111_655_680  # a ring of two sends each half twice
    assert shared.sent == 1.5 * two.sent
    assert two.memory - shared.memory == 4 * 111_655_680  # half of two moments


def test_shards_cover_the_data():
    small = plan.Plan('mae_vit_base_patch16', devices=3, images=1000, image_kb=100, shard_mb=10)
    assert small.shards == 10
    assert plan.shares(small) == '10, 3 for each GPU and one more for 1 of 3'
    many = plan.Plan('mae_vit_base_patch16', devices=20, images=1000, image_kb=100, shard_mb=10)
    assert plan.shares(many).endswith('with --shard_mb 5 each has one')


def test_a_checkpoint_is_as_large_as_planned(encoder):
    """The file of the tiny autoencoder: one channel, so its patches have fewer pixels."""
    channels = 2 * 16 * (96 + 64) + 2 * 16
    weights = plan.Plan('mae_vit_nano_patch4').weights - channels
    planned = plan.FLOAT * weights * (1 + plan.MOMENTS)
    assert encoder.stat().st_size == pytest.approx(planned, rel=0.03)


def test_the_program_prints_the_plan(capsys):
    plan.main(plan.PARSER.parse_args(['mae_vit_large_patch16', '--devices', '1000']))
    printed = capsys.readouterr().out
    assert '329,239,296' in printed and 'sent in a step' in printed
