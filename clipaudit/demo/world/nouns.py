"""What the demo world is made of: nouns, groups, colours, styles, tints and backgrounds, and their emoji."""

from __future__ import annotations

from types import MappingProxyType

GROUPS = MappingProxyType(
    {
        "waterbird": ("duck", "flamingo", "goose", "penguin", "swan"),
        "landbird": ("eagle", "owl", "parrot", "rooster", "turkey"),
        "animal": ("butterfly", "cat", "cow", "crab", "elephant", "fish", "frog", "pig", "turtle", "whale"),
        "vehicle": ("airplane", "bicycle", "boat", "bus", "car", "helicopter", "rocket", "tractor"),
        "food": ("apple", "banana", "cake", "carrot", "donut", "hamburger", "pizza", "strawberry"),
        "object": ("balloon", "book", "cactus", "camera", "clock", "guitar", "key", "umbrella"),
    }
)
"""Nouns by group; a noun is in exactly one."""

NOUNS = tuple(sorted(noun for nouns in GROUPS.values() for noun in nouns))
GROUP_OF = MappingProxyType({noun: group for group, nouns in GROUPS.items() for noun in nouns})
BIRDS = GROUPS["waterbird"] + GROUPS["landbird"]

EMOJI = MappingProxyType(
    {
        "airplane": "airplane",
        "apple": "red-apple",
        "balloon": "balloon",
        "banana": "banana",
        "bicycle": "bicycle",
        "boat": "sailboat",
        "book": "closed-book",
        "bus": "bus",
        "butterfly": "butterfly",
        "cactus": "cactus",
        "cake": "birthday-cake",
        "camera": "camera",
        "car": "automobile",
        "carrot": "carrot",
        "cat": "cat-face",
        "clock": "alarm-clock",
        "cow": "cow-face",
        "crab": "crab",
        "donut": "doughnut",
        "duck": "duck",
        "eagle": "eagle",
        "elephant": "elephant",
        "fish": "tropical-fish",
        "flamingo": "flamingo",
        "frog": "frog",
        "goose": "goose",
        "guitar": "guitar",
        "hamburger": "hamburger",
        "helicopter": "helicopter",
        "key": "key",
        "owl": "owl",
        "parrot": "parrot",
        "penguin": "penguin",
        "pig": "pig-face",
        "pizza": "pizza",
        "rocket": "rocket",
        "rooster": "rooster",
        "strawberry": "strawberry",
        "swan": "swan",
        "tractor": "tractor",
        "turkey": "turkey",
        "turtle": "turtle",
        "umbrella": "umbrella",
        "whale": "spouting-whale",
    }
)
"""Noun to emoji name, in emojibase's English spelling with hyphens (which the icon sets use too)."""

ARTS = ("noto", "fluent-flat", "fluent-3d")
"""Art styles seen in training."""
HELD_OUT_ART = "noto-v1"
"""The art that training never sees; older, so it lacks the newest nouns."""

SHAPES = ("circle", "cross", "heart", "square", "star", "triangle")
COLOURS = MappingProxyType(
    {
        "black": (25, 25, 25),
        "blue": (35, 80, 225),
        "brown": (120, 72, 35),
        "green": (30, 155, 60),
        "orange": (245, 135, 20),
        "pink": (250, 130, 190),
        "purple": (130, 50, 175),
        "red": (215, 35, 35),
        "yellow": (250, 220, 40),
    }
)
"""Colours of plain shapes as sRGB."""

STYLES = ("black and white", "blurry", "sepia", "sketch", "pixelated")
"""Photographic styles; a scene without one has the style `photo`."""
TINTS = MappingProxyType(
    {"red": (330, 200, 190), "green": (190, 320, 190), "blue": (180, 210, 340), "purple": (300, 170, 330)}
)
"""Colour casts of the whole image: gain of red, green, blue in 1/256."""

BACKGROUND_GROUPS = MappingProxyType(
    {
        "water": ("lake", "ocean"),
        "land": ("bamboo", "forest"),
        "open": ("desert", "grass", "sky", "snow", "night"),
        "built": ("brick", "city", "room"),
    }
)
BACKGROUNDS = tuple(sorted(name for names in BACKGROUND_GROUPS.values() for name in names))
BACKGROUND_GROUP_OF = MappingProxyType({name: group for group, names in BACKGROUND_GROUPS.items() for name in names})
HOME = MappingProxyType({"waterbird": "water", "landbird": "land"})
"""The background group that the birds of a group live on."""

POSITIONS = ("left", "right", "top", "bottom", "center")
SIZES = ("small", "large")
