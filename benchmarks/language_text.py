"""Short texts from a grammar, and readers who prefer one of two: preferences of a language model.

A text is two lines about a topic: words of kind or harsh mood, of formal or casual register, a few of them or
many, ends that rhyme or don't, words that come again or don't. Every text has its own mood, register and so
on, so that these `ATTRIBUTES` vary independently. An objective is a weighting of them; what it prefers is
told by the difference of two texts' weighted attributes. Which objectives conflict is therefore known.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

WORDS = {
    "topic": ("cat", "dog", "king", "child", "ship", "storm"),
    "kind": ("merry", "gentle", "bright"),
    "harsh": ("cruel", "bleak", "grim"),
    "plain": ("old", "small", "grey"),
    "formal": ("observes", "acquires", "encounters"),
    "casual": ("sees", "gets", "meets"),
    "formal link": ("moreover", "whereas"),
    "casual link": ("and", "so"),
    "rhyme 0": ("hat", "mat", "bat"),
    "rhyme 1": ("moon", "spoon", "tune"),
    "rhyme 2": ("light", "kite", "night"),
}
"""Words by what they are; those of a rhyme rhyme with each other."""
OBJECTIVES = 12
"""Largest number of objectives, each of which has a token by which a policy can be told it."""
SPECIAL = ("<end>", "<anyone>", *(f"<reader {i}>" for i in range(OBJECTIVES)))
VOCABULARY = (*SPECIAL, *(word for words in WORDS.values() for word in words))
TOKEN = {word: i for i, word in enumerate(VOCABULARY)}
END, ANYONE = 0, 1
"""What ends a text and fills up behind it; and who a text is for, where nobody in particular is meant."""
MOST_ADJECTIVES = 2
LENGTH = 2 * (MOST_ADJECTIVES + 4) + 2
"""Tokens of a text, its end included, at most."""
ATTRIBUTES = ("kindness", "formality", "length", "rhyme", "repetition")


class Texts(NamedTuple):
    """Texts and what they are about."""

    prompt: np.ndarray
    """int32 [..., 2]: who a text is for, and its topic."""
    tokens: np.ndarray
    """int32 [..., LENGTH]: words, an end, and ends behind it."""


def _tokens_of(*kinds: str) -> np.ndarray:
    return np.array([TOKEN[word] for kind in kinds for word in WORDS[kind]])


TOPICS = _tokens_of("topic")


def write(rng: np.random.Generator, topic: int) -> list[int]:
    """One text about a topic (a token), in a style of its own."""
    mood, register = rng.dirichlet(np.ones(3)), rng.random()
    again, rhymes, wordy = rng.random(), rng.random() < 0.5, rng.random()
    moods, registers = (_BY_KIND[name] for name in ("mood", "register"))
    lines: list[list[int]] = []
    first = rng.integers(3)
    for turn in range(2):
        sounds = first if not turn or rhymes else (first + rng.integers(1, 3)) % 3
        ends = [word for word in _BY_KIND["rhyme"][sounds] if not turn or word != lines[0][-1]]
        if turn and rng.random() < again:
            front = list(lines[0][:-1])
        else:
            before, behind = rng.binomial(MOST_ADJECTIVES, wordy), rng.binomial(1, wordy)
            adjectives = [int(rng.choice(moods[rng.choice(3, p=mood)])) for _ in range(before + behind)]
            verb = int(rng.choice(registers[int(rng.random() < register)]))
            front = [*adjectives[:before], topic, verb, *adjectives[before:]]
        lines.append([*front, int(rng.choice(ends))])
    link = int(rng.choice(_BY_KIND["link"][int(rng.random() < register)]))
    return [*lines[0], link, *lines[1]]


_BY_KIND = {
    "mood": [_tokens_of(kind) for kind in ("kind", "harsh", "plain")],
    "register": [_tokens_of(kind) for kind in ("casual", "formal")],
    "link": [_tokens_of(kind) for kind in ("casual link", "formal link")],
    "rhyme": [_tokens_of(f"rhyme {i}").tolist() for i in range(3)],
}


def texts(rng: np.random.Generator, topics: np.ndarray) -> Texts:
    """A text for every topic (tokens [...])."""
    written = np.full((topics.size, LENGTH), END, np.int32)
    for row, topic in zip(written, topics.ravel(), strict=True):
        words = write(rng, int(topic))
        row[: len(words)] = words
    prompt = np.stack([np.full_like(topics, ANYONE), topics], -1).astype(np.int32)
    return Texts(prompt, written.reshape(*topics.shape, LENGTH))


def attributes(tokens: np.ndarray) -> np.ndarray:
    """What texts [..., LENGTH] are like: float [..., 5], in the order of `ATTRIBUTES`.

    Kind words less harsh ones, formal less casual ones, words, whether the lines' ends rhyme, and the part of
    the words that were there before (the topic apart).
    """

    def count(*kinds: str) -> np.ndarray:
        return np.isin(tokens, _tokens_of(*kinds)).sum(-1)

    kindness = count("kind") - count("harsh")
    formality = count("formal", "formal link") - count("casual", "casual link")
    ends = np.stack([count(f"rhyme {i}") for i in range(3)], -1)
    earlier = np.tril(np.ones((tokens.shape[-1],) * 2, bool), -1)
    again = ((tokens[..., :, None] == tokens[..., None, :]) & earlier).any(-1)
    repeated = (again & (tokens != END) & ~np.isin(tokens, TOPICS)).sum(-1)
    length = (tokens != END).sum(-1)
    return np.stack([kindness, formality, length, ends.max(-1) > 1, repeated / np.maximum(length, 1)], -1)


@functools.cache
def usual() -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of every attribute over the grammar's texts."""
    rng = np.random.default_rng(0)
    found = attributes(texts(rng, rng.choice(TOPICS, 4000)).tokens)
    return found.mean(0), found.std(0)


class Objectives(NamedTuple):
    """What n readers want."""

    names: tuple[str, ...]
    weights: np.ndarray
    """float [n, 5]: of the attributes in units of their deviation, of length 1."""
    labels: np.ndarray
    """int [n]: the planted groups."""
    opposed: tuple[tuple[int, int], ...] = ()
    """Pairs that want the opposite of each other, if that is all that is planted: then every partition that
    keeps them apart is as good as ``labels``."""

    def scores(self, tokens: np.ndarray) -> np.ndarray:
        """How much every reader likes texts [..., LENGTH]: float [..., n]."""
        mean, deviation = usual()
        return (attributes(tokens) - mean) / deviation @ self.weights.T


AUDIENCES = {
    "nursery": (1.0, 0.0, -0.5, 1.0, 1.0),
    "office": (0.0, 1.0, 1.0, -1.0, -0.5),
    "tavern": (-1.2, -1.5, 0.3, 0.0, -0.7),
}
"""What audiences want of the `ATTRIBUTES`: every two want opposite things, on the whole."""
OWN = 0.5
"""Length of what a reader wants beyond the audience, where what the audience wants has 1."""


def _around(rng: np.random.Generator, wanted: np.ndarray) -> np.ndarray:
    """Weightings of length 1 near those of audiences [n, 5]."""
    own = rng.normal(size=wanted.shape)
    found = wanted / np.linalg.norm(wanted, axis=1, keepdims=True)
    found = found + OWN * own / np.linalg.norm(own, axis=1, keepdims=True)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def readers(seed: int, n: int = 10) -> Objectives:
    """Readers of three audiences: three planted groups."""
    rng, labels = np.random.default_rng([seed, 1]), np.arange(n) % len(AUDIENCES)
    wanted = np.array(list(AUDIENCES.values()))[labels]
    names = tuple(f"{list(AUDIENCES)[label]} {i}" for i, label in enumerate(labels))
    return Objectives(names, _around(rng, wanted), labels)


def opposites(seed: int) -> Objectives:
    """One objective for more and one for less of every attribute; two policies serve them all, in 16 ways."""
    del seed
    names = tuple(f"{which} {name}" for name in ATTRIBUTES for which in ("more", "less"))
    weights = np.repeat(np.eye(len(ATTRIBUTES)), 2, 0) * np.tile([1.0, -1.0], len(ATTRIBUTES))[:, None]
    labels = np.tile([0, 1], len(ATTRIBUTES))
    return Objectives(names, weights, labels, tuple((i, i + 1) for i in range(0, len(names), 2)))


def agreeing(seed: int, n: int = 10) -> Objectives:
    """Readers of one audience: nothing is gained by grouping."""
    rng = np.random.default_rng([seed, 2])
    wanted = np.tile(AUDIENCES["nursery"], (n, 1))
    return Objectives(tuple(f"nursery {i}" for i in range(n)), _around(rng, wanted), np.zeros(n, int))


FAMILIES: dict[str, Callable[[int], Objectives]] = {
    "readers": readers, "opposites": opposites, "agreeing": agreeing,
}  # fmt: skip
"""Sets of objectives by name."""


class Pairs(NamedTuple):
    """Pairs of texts that n readers were shown, N each, and which one they preferred."""

    prompt: np.ndarray
    """int32 [n, N, 2]."""
    pair: np.ndarray
    """int32 [n, N, 2, LENGTH]: the two texts, in the order in which they were shown."""
    sign: np.ndarray
    """float32 [n, N]: 1 where the first was preferred, -1 where the second was. Half of the chosen texts were
    shown first."""
    request: np.ndarray
    """int32 [n, N]: number of the prompt; several pairs answer the same one."""


PAIRS_A_REQUEST = 4


def preferences(
    rng: np.random.Generator, objectives: Objectives, count: int, temperature: float = 0.0
) -> Pairs:
    """Pairs of texts and what every reader prefers.

    Args:
        rng: of texts and choices.
        objectives: what the n readers want.
        count: pairs N of each, a multiple of `PAIRS_A_REQUEST`.
        temperature: of the choice (Bradley-Terry, on weighted attributes); 0 is always the better text.
    """
    n, requests = len(objectives.names), count // PAIRS_A_REQUEST
    topics = np.repeat(rng.choice(TOPICS, (n, requests)), PAIRS_A_REQUEST, 1)
    shown = texts(rng, np.stack([topics, topics], -1))
    difference = _differences(objectives, shown.tokens)
    while (ties := difference == 0).any():
        shown.tokens[ties] = texts(rng, np.stack([topics[ties]] * 2, -1)).tokens
        difference = _differences(objectives, shown.tokens)
    noise = temperature * rng.logistic(size=difference.shape)
    first = np.broadcast_to(np.arange(count) % 2 == 0, difference.shape)
    swap = (difference + noise > 0) != first
    pair = np.where(swap[..., None, None], shown.tokens[..., ::-1, :], shown.tokens)
    request = np.broadcast_to(np.arange(count) // PAIRS_A_REQUEST, difference.shape)
    return Pairs(shown.prompt[..., 0, :], pair, np.where(first, 1, -1).astype(np.float32), request)


def _differences(objectives: Objectives, tokens: np.ndarray) -> np.ndarray:
    """How much more every reader likes the first text of its pairs [n, N, 2, LENGTH]: float [n, N]."""
    scores = objectives.scores(tokens)
    own = scores[np.arange(len(scores)), ..., np.arange(len(scores))]
    return own[..., 0] - own[..., 1]


def words(tokens: np.ndarray) -> str:
    """A text [LENGTH] in words."""
    return " ".join(VOCABULARY[token] for token in tokens if token != END)


def agreement(objectives: Objectives, count: int = 4000) -> np.ndarray:
    """Of random pairs of texts, the part on which every two readers prefer the same one: [n, n]."""
    rng = np.random.default_rng(1)
    topics = rng.choice(TOPICS, count)
    scores = objectives.scores(texts(rng, np.stack([topics, topics], -1)).tokens)
    sign = np.sign(scores[:, 0] - scores[:, 1])
    both = (sign != 0).astype(float)
    return 0.5 + 0.5 * (sign.T @ sign) / (both.T @ both)
