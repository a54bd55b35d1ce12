"""The words of the embedded world: topics, tones, and the frames that sentences are built on.

Frozen: a change here makes another world, and figures that were measured in the old one no longer compare.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Topic:
    """Any verb goes with any noun (as its object), and any noun with any predicate. A noun belongs to one topic."""

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
        "roses ferns beans herbs tulips lilies",
        "young wild green tall",
        "water plant trim feed",
        "need light, love the rain, grow in the shade, bend in the wind, smell of summer",
    ),
    "kitchen": _topic(
        "soups stews pies sauces noodles salads",
        "fresh warm rich simple",
        "serve season taste prepare",
        "need salt, cool by the window, fill the table, please the guests, taste of home",
    ),
    "harbour": _topic(
        "boats ferries barges canoes rafts yachts",
        "old small white quick",
        "moor paint inspect load",
        "wait for the tide, rock in the storm, carry salt and grain, sleep at the pier, follow the lights",
    ),
    "library": _topic(
        "novels maps poems letters diaries atlases",
        "rare dusty thin famous",
        "read lend copy shelve",
        "tell of distant lands, hide old secrets, smell of paper, wait on the shelf, teach us patience",
    ),
    "farm": _topic(
        "cows sheep goats hens ducks pigs",
        "calm hungry healthy spotted",
        "feed wash guard call",
        "graze near the barn, sleep on straw, follow the farmer, need clean water, wake before dawn",
    ),
    "sky": _topic(
        "comets planets stars moons meteors galaxies",
        "bright distant faint blue",
        "observe name chart track",
        "cross the night, fade at dawn, guide the sailors, glow above the roofs, obey gravity",
    ),
}

KINDS = ("advice", "description", "list")
TONES = ("polite", "cheerful", "formal", "curt")

OPENINGS: dict[str, tuple[str, ...]] = {
    "polite": ("Thank you for asking.", "I would be glad to help.", "Of course, with pleasure."),
    "cheerful": ("What a great question!", "Oh, I love this one!", "Hooray, let us begin!"),
    "formal": ("The answer is as follows.", "This matter deserves attention.", "A brief account is given below."),
    "curt": (),
}

CLOSINGS: dict[str, tuple[str, ...]] = {
    "polite": ("I hope this helps.", "Please ask again at any time."),
    "cheerful": ("Have lots of fun!", "Enjoy every minute!"),
    "formal": ("No further remarks are required.", "This concludes the answer."),
    "curt": (),
}

FRAMES: dict[tuple[str, str], tuple[str, ...]] = {
    ("advice", "polite"): ("please {}.", "you might {}.", "I would kindly {}."),
    ("advice", "cheerful"): ("go and {}!", "just {}!", "come on, {}!"),
    ("advice", "formal"): ("one should {}.", "it is advised to {}."),
    ("advice", "curt"): ("in short, {}.", "briefly: {}."),
    ("description", "polite"): ("you may find that {}.", "as you may know, {}.", "I believe that {}."),
    ("description", "cheerful"): ("look, {}!", "how lovely, {}!", "yes, {}!"),
    ("description", "formal"): ("it is known that {}.", "in general, {}."),
    ("description", "curt"): ("in short, {}.", "briefly: {}."),
    ("list", "polite"): ("you might like {}.", "may I suggest {}."),
    ("list", "cheerful"): ("think of {}!", "hurry and see {}!"),
    ("list", "formal"): ("the list includes {}.", "one may name {}."),
    ("list", "curt"): ("in short, {}.", "briefly: {}."),
}

ADJUNCTS: dict[str, tuple[str, ...]] = {
    "advice": ("every morning", "once a week", "with care", "by hand", "before noon", "without haste", "with a friend"),
    "description": ("in late autumn", "all year", "at times", "on cold days", "during the night", "most of the time"),
    "list": (),
}
