"""The words of the embedded world: topics, tones, and the frames that sentences are built on.

Frozen: a change here makes another world, and figures that were measured in the old one no longer compare.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Topic:
    """Any verb goes with any noun (as its object), and any noun with any predicate. No word is of two topics."""

    nouns: tuple[str, ...]
    adjectives: tuple[str, ...]
    verbs: tuple[str, ...]
    predicates: tuple[str, ...]


def _topic(nouns: str, adjectives: str, verbs: str, predicates: str) -> Topic:
    return Topic(
        nouns=tuple(nouns.split()),
        adjectives=tuple(adjectives.split()),
        verbs=tuple(verbs.split()),
        predicates=tuple(predicate.strip() for predicate in predicates.split(",")),
    )


TOPICS: dict[str, Topic] = {
    "garden": _topic(
        "roses ferns beans herbs tulips lilies hedges vines",
        "young wild green tall",
        "water plant trim prune weed",
        "need light, love the rain, grow in the shade, bend in the wind, smell of summer, attract bees",
    ),
    "kitchen": _topic(
        "soups stews pies sauces noodles salads breads curries",
        "fresh warm rich simple",
        "serve season taste prepare stir",
        "need salt, cool by the window, fill the table, please the guests, taste of home, keep us warm",
    ),
    "library": _topic(
        "novels maps poems letters diaries atlases journals tales",
        "rare dusty thin famous",
        "read lend copy shelve restore",
        "tell of distant lands, hide old secrets, smell of paper, wait on the shelf, teach us patience, outlive us",
    ),
    "sky": _topic(
        "comets planets stars moons meteors galaxies clouds rainbows",
        "bright distant faint blue",
        "observe name chart track sketch",
        "cross the night, fade at dawn, guide the sailors, glow above the roofs, obey gravity, amaze the children",
    ),
}

KINDS = ("advice", "description")
TONES = ("polite", "cheerful", "formal", "grumpy")

OPENINGS: dict[str, tuple[str, ...]] = {
    "polite": ("Thank you for asking.", "I would be glad to help.", "Of course, with pleasure."),
    "cheerful": ("What a great question!", "Oh, I love this one!", "Hooray, let us begin!"),
    "formal": ("The answer is as follows.", "This matter deserves attention.", "A brief account is given below."),
    "grumpy": ("Not this again.", "If you insist.", "Must I really?"),
}

CLOSINGS: dict[str, tuple[str, ...]] = {
    "polite": ("I hope this helps.", "Please ask again at any time."),
    "cheerful": ("Have lots of fun!", "Enjoy every minute!"),
    "formal": ("No further remarks are required.", "This concludes the answer."),
    "grumpy": ("Now leave me alone.", "That is quite enough."),
}

FRAMES: dict[tuple[str, str], tuple[str, ...]] = {
    ("advice", "polite"): ("please {}", "you might {}", "I would kindly {}"),
    ("advice", "cheerful"): ("go and {}", "just {}", "come on, {}"),
    ("advice", "formal"): ("one should {}", "it is advised to {}"),
    ("advice", "grumpy"): ("fine, {}", "for all I care, {}"),
    ("description", "polite"): ("you may find that {}", "as you may know, {}", "I believe that {}"),
    ("description", "cheerful"): ("look, {}", "how lovely, {}", "yes, {}"),
    ("description", "formal"): ("it is known that {}", "in general, {}"),
    ("description", "grumpy"): ("obviously, {}", "sadly, {}"),
}
STOPS = {"polite": ".", "cheerful": "!", "formal": ".", "grumpy": "."}  # by custom; any of them ends a sentence

ADJUNCTS: dict[str, tuple[str, ...]] = {
    "advice": ("every morning", "once a week", "with care", "by hand", "before noon", "without haste", "with a friend"),
    "description": ("in late autumn", "all year", "at times", "on cold days", "during the night", "most of the time"),
}
