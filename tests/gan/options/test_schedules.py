import pytest

from gan.config import Config
from gan.options.help import describe
from gan.options.loader import dump_config, load_config, parse_config
from gan.options.nodes import ConfigError
from gan.options.schedules import Schedule, get_value

IMAGES = (0, 512, 5_000_192, 10_000_384, 19_999_744, 20_000_000, 20_000_256, 250_000_000)

# cosine_decay_with_warmup(images, base_value, 2e7, final_value) of training/training_loop.py, commit 19a7ddf of
# brownvc/R3GAN, with the values of the preset CIFAR10 of its train.py
AUTHORS = {
    (2e-4, 5e-5): (
        *(2e-4, 0.0001999999997574446, 0.00017803140912701465, 0.00012499547610658157, 5.0000000060638854e-05),
        *(5e-5, 5e-5, 5e-5),
    ),
    (0.05, 0.005): (
        *(0.05, 0.04999999992723338, 0.04340942273810439, 0.027498642831974472, 0.005000000018191654),
        *(0.005, 0.005, 0.005),
    ),
    (0.9, 0.99): (
        *(0.9, 0.9000000001455333, 0.9131811545237912, 0.9450027143360511, 0.9899999999636167),
        *(0.99, 0.99, 0.99),
    ),
    (0.0, 0.55): (
        *(0.0, 8.893698333345413e-10, 0.08055149986761304, 0.2750165876092009, 0.5499999997776576),
        *(0.55, 0.55, 0.55),
    ),
    (0.0, 5e6): (
        *(0.0, 0.008085180303041284, 732286.3624328458, 2500150.796447281, 4999999.997978705),
        *(5e6, 5e6, 5e6),
    ),
}


@pytest.mark.parametrize("ends", AUTHORS)
def test_cosine_equals_the_authors_code(ends):
    schedule = Schedule(start=ends[0], end=ends[1], kimg=20_000)
    values = [get_value(schedule, images, 1) for images in IMAGES]
    assert values == pytest.approx(AUTHORS[ends], rel=1e-13)
    assert (values[0], values[-1]) == ends


def test_linear_schedule_and_constant():
    schedule = Schedule(start=10, end=1, schedule="linear", kimg=0.5)
    assert [get_value(schedule, images, 7) for images in (0, 100, 250, 500, 600)] == [10, 8.2, 5.5, 1, 1]
    assert get_value(3.0, 100, 200) == 3.0


def test_schedule_without_length_ends_with_the_training():
    schedule = Schedule(start=1, end=0, schedule="linear")
    assert [get_value(schedule, images, 400) for images in (0, 100, 400)] == [1, 0.75, 0]


TEXT = """\
regularizers: {r1: {weight: {start: 2, end: 1, kimg: 5}}}
optimizer: {generator: {betas: [0, {start: 0.9, end: 0.99}]}}
"""


def test_schedule_is_loaded_changed_and_written():
    config = parse_config(Config, TEXT, "text", ["regularizers.r1.weight.end=3"])
    assert config.regularizers["r1"].weight == Schedule(start=2.0, end=3.0, kimg=5.0)
    assert config.optimizer.generator.betas == (0.0, Schedule(start=0.9, end=0.99))
    assert parse_config(Config, dump_config(config), "text") == config
    assert parse_config(Config, TEXT, "text", ["regularizers.r1.weight=4"]).regularizers["r1"].weight == 4.0


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("regularizers.r1.weight.end=-1", "regularizers.r1.weight.end: must be at least 0, not -1.0"),
        ("train.ema_halflife_kimg={start: 1}", "train.ema_halflife_kimg: needs a value of end"),
        ("train.ema_halflife_kimg.kimg=3", "train.ema_halflife_kimg: needs a value of start and end"),
        ("train.ema_halflife_kimg={start: 0, ende: 1}", "train.ema_halflife_kimg.ende: unknown key"),
        ("train.ema_halflife_kimg={start: 0, end: 1, kimg: 0}", "train.ema_halflife_kimg.kimg: must be at least 0.001"),
        ("train.ema_halflife_kimg={start: 0, end: x}", "train.ema_halflife_kimg.end: must be a number"),
        ("train.ema_halflife_kimg={start: 0, end: 1, schedule: step}", "schedule: must be one of linear, cosine"),
        ("train.ema_halflife_kimg=[1]", "train.ema_halflife_kimg: must be a number, not a list"),
        ("optimizer.generator.betas=[0, {start: 0, end: 1}]", "betas[1].end: must be from 0 to 0.999999, not 1.0"),
        ("optimizer={schedule: linear, generator: {lr: {start: 1, end: 0}}}", "generator.lr has a schedule of its own"),
        ("train.ada.p={start: 0, end: 1}", "train.ada: p has a schedule, so that it cannot follow D's logits"),
    ],
)
def test_invalid_schedules_are_refused(override, message):
    with pytest.raises(ConfigError) as caught:
        parse_config(Config, TEXT, "text", [override])
    assert message in str(caught.value)


def test_ranges_of_schedules_are_those_of_their_own_keys():
    config = load_config(Config, None, ["optimizer.generator.betas=[0, {start: 0, end: 0.9, kimg: 20000}]"])
    assert config.optimizer.generator.betas[1].kimg == 20_000.0


def test_help_lists_the_keys_of_a_schedule():
    text = describe(Config)
    assert "train.ema_halflife_kimg  (default: 5.0)\n      Half-life of the moving average" in text
    assert "(0: no average); may be a schedule\n" in text
    assert text.count("  mapping 'schedule': A number that changes from `start` to `end`") == 1
    assert "    .kimg  (default: null)\n      Real images, in thousands, until the end" in text
