"""A small world that tells stories: the text the pocket model learns and is measured on.

Each story is a little simulation. Somebody is in trouble and needs a thing; the thing lies somewhere or belongs to
somebody; so the hero walks, asks, works, pays and swaps until the trouble is mended, and the text only ever states what
holds in that world. Who has what, where everybody is, the coins left, the hour and the weather stay true from the first
sentence to the last.

Deterministic from its seed on every platform and Python version: all draws come from `random.Random.random()`, whose
sequence Python guarantees, and nothing iterates over a set. Must not know of tokens or models.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeVar
from zlib import crc32

from quanttui.models.pocket import words as w

T = TypeVar("T")


class Dice:
    """Every choice a story makes, drawn from one seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed).random

    def below(self, n: int) -> int:
        return int(self._random() * n)

    def chance(self, p: float) -> bool:
        return self._random() < p

    def pick(self, options: Sequence[T]) -> T:
        return options[self.below(len(options))]

    def apt(self, options: tuple[str, ...], word: str) -> str:
        """One of the options, the likelier the better it suits the word: a habit of this world that a reader can learn."""
        return habits(options, word)[int(self._random() ** 3 * len(options))]

    def some(self, options: Sequence[T], k: int) -> list[T]:
        """k different options, in drawn order."""
        rest = list(options)
        return [rest.pop(self.below(len(rest))) for _ in range(k)]


@cache
def habits(options: tuple[str, ...], word: str) -> tuple[str, ...]:
    """The options in the order in which they suit the word. The order is arbitrary, and always the same."""
    return tuple(sorted(options, key=lambda option: crc32(f"{word} {option}".encode())))


@dataclass(eq=False)
class Person:
    name: str
    she: bool
    role: str
    trait: str
    at: w.Spot
    coins: int = 0

    def words(self, slot: str) -> dict[str, str]:
        """The forms a template may ask for: name, subject, object and possessive pronoun."""
        he, him, his = ("she", "her", "her") if self.she else ("he", "him", "his")
        return {f"{slot}n": self.name, f"{slot}he": he, f"{slot}him": him, f"{slot}his": his}


@dataclass(eq=False)
class Thing:
    noun: str
    adjective: str
    holder: Person | w.Spot


def article(phrase: str) -> str:
    vowel = (phrase[0] in "aeiou" and not phrase.startswith("one-")) or phrase.startswith("honest")
    return ("an " if vowel else "a ") + phrase


def inside(spot: w.Spot) -> str:
    return f"{spot.prep} the {spot.noun}"


def listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


class Tale:
    """One world and the story told about it; `tell()` runs it once."""

    def __init__(self, dice: Dice) -> None:
        self.dice = dice
        self.paragraphs: list[list[str]] = [[]]
        self.focus: Person | None = None
        self.town = self.elsewhere()
        self.season, self.climate = dice.pick(w.SEASONS)
        self.weather = dice.pick(self.climate)
        self.day, self.hour = dice.below(7), dice.below(3)
        self.spots = dice.some(w.SPOTS, 4 + dice.below(3))
        self.ways = self._ways()
        self.people = [self._person() for _ in range(4 + dice.below(2))]
        self.hero = self.people[0]
        self.hero.coins = 2 + dice.below(9)
        self.trouble = dice.pick(w.TROUBLES)
        self.home = self.hero.at
        self.beast = f"{dice.pick(w.COATS)} {dice.pick(w.BEASTS)}" if dice.chance(0.35) else ""
        self.things = self._things()
        self.helpers: list[Person] = []
        self.features = dict(zip([p.name for p in self.people], dice.some(w.FEATURES, len(self.people)), strict=True))

    # -- the world -------------------------------------------------------------------------------------------------

    def _ways(self) -> dict[tuple[str, str], str]:
        """A tree of roads between the places, each with its own way of being walked."""
        roads = self.dice.some(w.WAYS, len(self.spots) - 1)
        ways: dict[tuple[str, str], str] = {}
        for i, road in enumerate(roads, start=1):
            a, b = self.spots[i].noun, self.spots[self.dice.below(i)].noun
            ways[a, b] = ways[b, a] = road
        return ways

    def _person(self) -> Person:
        she, taken = self.dice.chance(0.5), [p.name for p in getattr(self, "people", [])]
        while True:
            if self.dice.chance(0.55):
                name = self.dice.pick(w.SHE if she else w.HE)
            else:
                name = self.dice.pick(w.NAME_HEADS) + self.dice.pick(w.SHE_TAILS if she else w.HE_TAILS)
            if name not in taken:
                break
        role = self.dice.pick(w.ROLES)
        return Person(name, she, role, self.dice.apt(w.TRAITS, role), self.dice.pick(self.spots))

    def _things(self) -> list[Thing]:
        """The wanted thing out of the hero's reach, and spare things spread over people and places."""
        away = [s for s in self.spots if s is not self.home]
        others = [p for p in self.people[1:]]
        needed: Person | w.Spot = self.dice.pick(others) if self.dice.chance(0.7) else self.dice.pick(away)
        things = [Thing(self.trouble.noun, self.dice.apt(w.ADJECTIVES, self.trouble.noun), needed)]
        for noun in self.dice.some(w.SPARE, 4):
            holder: Person | w.Spot = self.dice.pick(self.people) if self.dice.chance(0.6) else self.dice.pick(away)
            things.append(Thing(noun, self.dice.apt(w.ADJECTIVES, noun), holder))
        return things

    def here(self) -> list[Person]:
        return [p for p in self.people if p is not self.hero and p.at is self.hero.at]

    def place_of(self, thing: Thing) -> w.Spot:
        return thing.holder.at if isinstance(thing.holder, Person) else thing.holder

    def path(self, goal: w.Spot) -> list[w.Spot]:
        """The places from the next one to the goal, along the roads."""
        came: dict[str, w.Spot | None] = {self.hero.at.noun: None}
        queue = deque([self.hero.at])
        while queue:
            spot = queue.popleft()
            for other in self.spots:
                if (spot.noun, other.noun) in self.ways and other.noun not in came:
                    came[other.noun] = spot
                    queue.append(other)
        steps: list[w.Spot] = []
        step: w.Spot | None = goal
        while step is not None and step is not self.hero.at:
            steps.append(step)
            step = came[step.noun]
        return steps[::-1]

    # -- the telling -----------------------------------------------------------------------------------------------

    def say(self, template: str, a: Person | None = None, b: Person | None = None, **slots: str) -> None:
        """One sentence. `{A}` becomes a pronoun where it is plain who is meant; `{An}` is always the name."""
        for slot, person in (("A", a), ("B", b)):
            if person is not None:
                slots.update(person.words(slot))
                slots[slot] = person.name
        if a is not None and a is self.focus and self.dice.chance(0.8):
            slots["A"] = slots["Ahe"]
        text = template.format(**slots)
        self.paragraphs[-1].append(text[:1].upper() + text[1:] if text[0] != '"' else text)
        plain = a is not None and (b is None or a.she != b.she)
        self.focus = a if plain else None

    def speak(self, who: Person, line: str, verb: str = "said") -> None:
        """A line of dialogue, its speaker named before or after it."""
        line = line[:1].upper() + line[1:]
        if self.dice.chance(0.7):
            tail = "" if line[-1] in "?!" else ","
            self.paragraphs[-1].append(f'"{line}{tail}" {verb} {who.name}.')
        else:
            stop = "" if line[-1] in "?!" else "."
            self.paragraphs[-1].append(f'{who.name} {verb}: "{line}{stop}"')
        self.focus = who

    def rest(self) -> None:
        """A new paragraph."""
        if self.paragraphs[-1]:
            self.paragraphs.append([])
        self.focus = None

    def any(self, *templates: str) -> str:
        return self.dice.pick(templates)

    def time_passes(self) -> None:
        """Now and then the hour or the weather moves on, and the text says so."""
        if self.dice.chance(0.3) and self.hour < len(w.HOURS) - 1:
            self.hour += 1
            self.say(w.LATER[self.hour])
        elif self.dice.chance(0.25):
            self.weather = self.dice.pick(self.climate)
            self.say(self.any("Now {x}.", "By then {x}.", "Soon {x}."), x=self.dice.pick(w.WEATHER[self.weather]))

    # -- beginnings ------------------------------------------------------------------------------------------------

    def open(self) -> None:
        hero, dice = self.hero, self.dice
        self.say(self.any(
            "{An} was {role} in {town}, and everyone there called {Ahim} {trait}.",
            "In {town} there lived {traitrole} whose name was {An}.",
            "There was once {traitrole} in {town} named {An}.",
            "Of all the people in {town}, {An} the {r} was the most {trait}.",
            "{An}, {traitrole}, had lived in {town} for {n} years.",
        ), hero, role=article(hero.role), r=hero.role, town=self.town, trait=hero.trait,
            traitrole=article(f"{hero.trait} {hero.role}"), n=w.NUMBERS[2 + dice.below(11)])
        self.focus = hero
        if self.beast:
            self.say(self.any("{A} never went anywhere without {Ahis} {x}.", "{A} had {y}, which followed {Ahim} everywhere.",
                              "{A} shared {Ahis} house with {y}."), hero, x=self.beast, y=article(self.beast))
        self.say(self.any("It was {season}, and {x}.", "One day in {season}, {h}, {x}.", "That {day} {x}.",
                          "On {article} {season} {day} {x}."),
                 season=self.season, h=w.HOURS[self.hour], day=w.DAYS[self.day], article=article(self.season)[:-len(self.season) - 1],
                 x=dice.pick(w.WEATHER[self.weather]))
        self.say(self.any("{A} was {at} when {Ahe} heard that {wrong}.", "{A} stood {at} and saw the trouble: {wrong}.",
                          "That was the day when {wrong}.", "{A} was {at}, and {Ahe} was {mood}, for {wrong}."),
                 hero, at=inside(self.home), wrong=self.trouble.wrong, mood=dice.pick(("worried", "angry", "sad", "puzzled")))
        self.focus = hero
        self.say(self.any("What {A} needed was {x}.", "Without {x} nothing could be done.", "{A} had no {y}, and that was the whole trouble.",
                          "Only {x} would help now.", "{A} knew at once that it would take {x}."), hero,
                 x=article(self.trouble.noun), y=self.trouble.noun)
        self.purse()
        self.pantry()

    def pantry(self) -> None:
        """What the hero owns at home: told here, and true again at the end."""
        self.stock = [self.load(self.hero.role) for _ in range(2 + self.dice.below(3))]
        self.say(self.any("At home {A} had {x}.", "{Anp} house was full: {x}.", "{A} was not rich, but at home there were {x}."),
                 self.hero, x=listed(self.stock), Anp=f"{self.hero.name}'s")

    def purse(self) -> None:
        mine = [t for t in self.things if t.holder is self.hero]
        if mine:
            self.say(self.any("In {Ahis} bag {A} had {x}.", "{A} owned little: {x}.", "{A} took {x} along, just in case."),
                     self.hero, x=listed([article(f"{t.adjective} {t.noun}") for t in mine]))
        self.say(self.any("{A} had {n} in {Ahis} pocket.", "{A} counted {Ahis} money: {n}.", "{A} had saved {n}, and no more."),
                 self.hero, n=self.money(self.hero.coins))

    @staticmethod
    def money(n: int) -> str:
        return f"{w.NUMBERS[n]} coin" if n == 1 else f"{w.NUMBERS[n]} coins"

    # -- moving and asking -----------------------------------------------------------------------------------------

    def go(self, goal: w.Spot) -> None:
        hero = self.hero
        for spot in self.path(goal):
            way = self.ways[hero.at.noun, spot.noun]
            self.say(self.any("{A} went {way} to the {spot}.", "{A} walked {way} until {Ahe} came to the {spot}.",
                              "{A} left the {old} {how} and went {way} to the {spot}.", "From the {old} {A} hurried {way} to the {spot}.",
                              "{A} set out {how} {way}, and reached the {spot}.", "{How}, {A} made {Ahis} way {way} to the {spot}."),
                     hero, way=way, spot=spot.noun, old=hero.at.noun, how=(how := self.dice.apt(w.MANNER, hero.trait)), How=how)
            hero.at = spot
            while self.dice.chance(0.5):
                self.aside()
            if self.beast and self.dice.chance(0.15):
                self.say(self.any("The {x} ran ahead.", "The {x} came slowly behind.", "Halfway there the {x} refused to go on."), x=self.beast)
        if self.dice.chance(0.55):
            self.say(self.any("There {x}.", "{Y}, {x}.", "It was as always: {x}."), x=self.dice.pick(goal.sights), Y=inside(goal))
        self.time_passes()
        self.notice()

    def folk(self, *, definite: bool = False) -> tuple[str, str]:
        """Somebody with no part in the story: the phrase, and the bare word by which their habits go."""
        who = self.dice.pick(w.FOLK)
        phrase = f"{self.dice.apt(w.LOOKS, who)} {who}"
        return (f"the {phrase}" if definite else article(phrase)), who

    def stuff(self, near: str) -> str:
        what = self.dice.apt(w.STUFF, near)
        return article(f"{self.dice.apt(w.STATES, what)} {what}")

    def load(self, suits: str) -> str:
        """A number of goods, such as: seven golden pears."""
        goods = self.dice.apt(w.GOODS, suits)
        state = self.dice.apt(w.STATES, goods) + " " if self.dice.chance(0.6) else ""
        return f"{w.NUMBERS[2 + self.dice.below(11)]} {state}{goods}"

    def aside(self) -> None:
        """Something that goes on beside the story and has no part in it."""
        dice = self.dice
        (one, who), (two, other) = self.folk(), self.folk()
        does, does_too, did, near = dice.apt(w.DOES, who), dice.apt(w.DOES, other), dice.apt(w.DID, who), dice.pick(w.NEAR)
        self.say(self.any(
            "{One} {does} {near} {thing}.",
            "{One} {does} {how} {near} {thing}, and {two} {does_too}.",
            "{One} and {two} stood {near} {thing} and talked about {topic}.",
            "{Near} {thing} {one} {does}, while {two} {does_too} {how}.",
            "{One} came by {how} with {load}.",
            "{One} had {did} {load} and was looking for them {near} {thing}.",
            "{One} gave {two} {load} for {more}.",
            "{Near} {thing} lay {load}, which {two} had {did}.",
            "{One} pointed {how} at {thing} and spoke of {topic}.",
        ), One=one, one=one, two=two, does=does, does_too=does_too, did=did, near=near, Near=near, thing=self.stuff(near),
            how=dice.apt(w.MANNER, does), load=self.load(did), more=self.load(other), topic=dice.apt(w.TOPICS, who))

    def gossip(self, who: Person) -> None:
        """What people say when they are asked about something else."""
        dice = self.dice
        town = self.elsewhere()
        body, habit = self.folk()
        somebody = self.any(f"my {dice.apt(w.MINE, who.role)}", f"{body} from {town}", f"my {dice.apt(w.KIN, who.role)} in {town}")
        did, near = dice.apt(w.DID, habit), dice.pick(w.NEAR)
        line = self.any(
            f"{somebody} has {did} {self.load(did)}",
            f"have you heard that {somebody} has {did} {self.load(did)}?",
            f"last {dice.pick(w.DAYS)} {somebody} {dice.apt(w.DOES, habit)} {near} {self.stuff(near)}",
            f"in {town} they talk of {dice.apt(w.TOPICS, town)} and eat {dice.apt(w.FOODS, town)}",
            f"I dreamed of {self.load(who.role)} and {body}",
            f"for {self.load(who.trait)} you get {self.load(town)} in {town}",
        )
        self.speak(who, line, dice.apt(("said", "sighed", "whispered", "added", "remarked", "muttered", "cried"), who.trait))

    def elsewhere(self) -> str:
        head = self.dice.pick(w.TOWN_HEADS)
        return head + self.dice.apt(w.TOWN_TAILS, head)

    def notice(self) -> None:
        """Whatever lies here and whoever is here may be seen, as they truly are."""
        for thing in self.things[1:]:
            if thing.holder is self.hero.at and self.dice.chance(0.5):
                self.say(self.any("{X} lay there, and nobody seemed to miss it.", "Somebody had left {x} behind.", "On a shelf stood {x}."),
                         x=article(f"{thing.adjective} {thing.noun}"), X=article(f"{thing.adjective} {thing.noun}"))
        for other in self.here():
            if other not in self.helpers and self.dice.chance(0.5):
                self.say(self.any("{An}, the {r}, was there too.", "{An} the {r} was eating {f}.", "{An}, {tr}, looked up and nodded.",
                                  "The {r}, whose name was {An}, sat there and looked {m}.", "{An} the {r}, known for {feature}, {does} there.",
                                  "{A} with {feature} {does} {near} the {stuff}."), other, feature=self.features[other.name],
                         does=self.dice.apt(w.DOES, other.role), near=self.dice.pick(w.NEAR), stuff=self.dice.pick(w.STUFF), r=other.role, tr=article(f"{other.trait} {other.role}"),
                         f=self.dice.apt(w.FOODS, other.role), m=self.dice.apt(w.MOODS, other.trait))

    def ask(self, thing: Thing, asked: list[Person]) -> bool:
        """Ask the people here; true once somebody has said where the thing is."""
        for other in self.here():
            if other in asked:
                continue
            asked.append(other)
            self.rest()
            if self.dice.chance(0.5):
                self.gossip(other)
            self.speak(self.hero, self.any(f"Good day, {other.name}, do you know where I can find {article(thing.noun)}?",
                                           f"I am looking for {article(thing.noun)}, have you seen one?",
                                           f"{other.name}, who in {self.town} has {article(thing.noun)}?",
                                           f"Tell me, {other.name}, where would you look for {article(thing.noun)}?"), "asked")
            if self.answer(thing, other):
                return True
            if self.dice.chance(0.6):
                self.gossip(other)
        return False

    def answer(self, thing: Thing, other: Person) -> bool:
        full = f"{thing.adjective} {thing.noun}"
        holder = thing.holder
        if holder is other:
            self.speak(other, self.any(f"You have come to the right place, for I have {article(full)}", f"I own {article(full)} myself",
                                       f"This {full} here is mine"), "answered")
            return True
        if not self.dice.chance(0.6):
            self.speak(other, self.any("I have no idea", "I have never seen one here", "Ask somebody else, I am busy",
                                       "I wish I knew", "There used to be one, but that was years ago"), "answered")
            return False
        spot = self.place_of(thing)
        if isinstance(holder, Person):
            self.speak(other, self.any(f"{holder.name} the {holder.role} has {article(full)}, and you will find {holder.words('')['him']} {inside(spot)}",
                                       f"Go to the {spot.noun} and ask for {holder.name}", f"{holder.name} has one, {inside(spot)}"), "answered")
        else:
            self.speak(other, self.any(f"I saw {article(full)} {inside(spot)}", f"There is {article(full)} lying {inside(spot)}",
                                       f"Look {inside(spot)}, there should be one"), "answered")
        return True

    def find(self, thing: Thing, asked: list[Person]) -> None:
        """Ask from place to place, passing over those already asked, until the way is known, then go there."""
        unseen = [s for s in self.spots if s is not self.hero.at]
        while not self.ask(thing, asked):
            if self.dice.chance(0.5):
                self.aside()
            if self.place_of(thing) is self.hero.at or not unseen:
                break
            if self.dice.chance(0.3):
                self.muse()
            self.rest()
            self.go(unseen.pop(self.dice.below(len(unseen))))
            if thing.holder is self.hero.at:
                break
        if self.place_of(thing) is not self.hero.at:
            self.rest()
            self.go(self.place_of(thing))

    def muse(self) -> None:
        self.speak(self.hero, self.dice.apt(w.MUSINGS, self.hero.trait), "thought")

    # -- getting ---------------------------------------------------------------------------------------------------

    def obtain(self, thing: Thing, asked: list[Person], depth: int = 0) -> None:
        """Find the thing and make it the hero's, by whatever its holder asks for it."""
        self.find(thing, asked)
        holder = thing.holder
        if isinstance(holder, Person):
            self.bargain(thing, holder, depth)
            if holder not in self.helpers:
                self.helpers.append(holder)
        else:
            self.say(self.any("{A} looked behind the {s}, and there it was: {x}.", "{Near} the {s} {A} found {x}.",
                              "After a long search {A} held {x} in {Ahis} hands.", "{A} saw {x} at once and picked it up."),
                     self.hero, x=article(f"{thing.adjective} {thing.noun}"), s=self.stuff("behind").split(" ", 1)[1], Near=self.dice.pick(w.NEAR))
        thing.holder = self.hero

    def bargain(self, thing: Thing, owner: Person, depth: int) -> None:
        wishes = [t for t in self.things[1:] if t is not thing and t.holder is not owner and t.holder is not self.hero]
        mine = [t for t in self.things[1:] if t.holder is self.hero]
        ways = ["gift", "work"] + (["pay"] * 2 if self.hero.coins else []) + (["swap"] * 3 if mine else [])
        if depth < 2 and wishes:
            ways += ["errand"] * (4 if depth == 0 else 2)
        way = self.dice.pick(ways)
        self.speak(self.hero, self.any(f"May I have your {thing.noun}?", f"I need {article(thing.noun)} badly, would you part with yours?",
                                       f"What would you take for the {thing.adjective} {thing.noun}?", f"Would you let me have that {thing.noun}?"), "asked")
        if way == "gift":
            self.gift(thing, owner)
        elif way == "work":
            self.work(thing, owner)
        elif way == "pay":
            self.pay(thing, owner)
        else:
            self.swap(thing, owner, self.dice.pick(mine if way == "swap" else wishes), depth)

    def gift(self, thing: Thing, owner: Person) -> None:
        self.speak(owner, self.any(f"Take the {thing.noun}, I never use it", "You helped me once, so it is yours",
                                   f"Of course, what are {self.any('friends', 'neighbours')} for?", "Keep it as long as you like"))
        self.say(self.any("So {A} got the {x} for nothing.", "{A} could hardly believe it and thanked {Bhim} {n} times.",
                          "{A} took the {x} and bowed."), self.hero, owner, x=thing.noun, n=w.NUMBERS[2 + self.dice.below(4)])

    def work(self, thing: Thing, owner: Person) -> None:
        task = self.dice.apt(w.FAVOURS, owner.role)
        self.speak(owner, self.any(f"First {task}, and the {thing.noun} is yours", f"You may have it if you {task}",
                                   f"I am tired, so {task} for me, and then we will see"))
        self.say(self.any("So {A} had to {task}.", "It was no joke to {task}, but {A} did it.", "{A} rolled up {Ahis} sleeves and began to {task}."),
                 self.hero, task=task)
        self.time_passes()
        if self.dice.chance(0.5):
            self.gossip(owner)
        self.say(self.any("When it was done, {An} gave {Bhim} the {x}.", "{An} was {m} and handed over the {x}.", "{An} kept {Ahis} word, and the {x} changed hands."),
                 owner, self.hero, x=f"{thing.adjective} {thing.noun}", m=self.dice.pick(("glad", "pleased", "calm")))

    def pay(self, thing: Thing, owner: Person) -> None:
        price = 1 + self.dice.below(self.hero.coins)
        self.speak(owner, self.any(f"It costs {self.money(price)}", f"For {self.money(price)} it is yours", f"Give me {self.money(price)} and take it"))
        had = self.hero.coins
        self.hero.coins -= price
        owner.coins += price
        self.say(self.any("{A} had {had}, paid {price}, and so {left}.", "{A} paid {price} of {Ahis} {had}, and {left}."), self.hero, owner,
                 had=self.money(had), price=w.NUMBERS[price],
                 left=f"{'none' if not self.hero.coins else w.NUMBERS[self.hero.coins]} {'were' if self.hero.coins > 1 else 'was'} left")

    def swap(self, thing: Thing, owner: Person, other: Thing, depth: int) -> None:
        why = w.WANTS[other.noun]
        self.speak(owner, self.any(f"Bring me {article(other.noun)} {why}, and the {thing.noun} is yours", f"I want {article(other.noun)} {why}, nothing else",
                                   f"I would trade it for {article(other.noun)}, which I need {why}"))
        if other.holder is self.hero:
            self.say(self.any("{A} was lucky, for {Ahe} had {x} with {Ahim}.", "{A} opened {Ahis} bag and took out {x}."), self.hero,
                     x=article(f"{other.adjective} {other.noun}"))
        else:
            self.say(self.any("So now {A} had to find {x} first.", "{A} promised to come back with {x}.", "{A} sighed and set out again, this time for {x}."),
                     self.hero, x=article(other.noun))
            self.obtain(other, [owner], depth + 1)
            self.rest()
            if self.hero.at is not owner.at:
                self.go(owner.at)
        self.say(self.any("{A} gave {B} the {mine} and got the {x} for it.", "{B} took the {mine} from {Bhis} visitor, and {A} took the {x}.",
                          "The {mine} went to {B}, and the {x} went to {A}."), self.hero, owner,
                 mine=self.any(other.noun, f"{other.adjective} {other.noun}"), x=self.any(thing.noun, f"{thing.adjective} {thing.noun}"))
        other.holder = owner

    # -- endings ---------------------------------------------------------------------------------------------------

    def mend(self) -> None:
        self.rest()
        if self.hero.at is not self.home:
            self.say(self.any("Now {A} could go home.", "{A} turned back towards the {x}.", "It was time to go back to the {x}."), self.hero, x=self.home.noun)
            self.go(self.home)
        thing = self.things[0]
        self.say(self.any("{A} took the {x} and {mended}.", "With the {x} in hand, {A} {mended}.", "At last {A} had {Ahis} {x}: {Ahe} {mended}."),
                 self.hero, x=self.any(thing.noun, f"{thing.adjective} {thing.noun}"), mended=self.trouble.mended)

    def close(self) -> None:
        hero, dice = self.hero, self.dice
        if self.helpers and dice.chance(0.6):
            guest = dice.pick(self.helpers)
            food = dice.apt(w.FOODS, guest.role)
            self.say(self.any("That evening {A} and {B} ate {f} together.", "{A} sent {B} some {f} to say thank you.",
                              "The next day {A} brought {B} {f}, and {Bhe} was {m}."), hero, guest, f=food, m=dice.pick(("glad", "pleased")))
        for thing in dice.some(self.things, 1 + dice.below(3)):
            full = f"{thing.adjective} {thing.noun}"
            if isinstance(thing.holder, Person):
                self.say(self.any("The {x} belongs to {An} now.", "{An} still has the {x}.", "The {x} stayed with {An}."), thing.holder, x=full)
            else:
                self.say(self.any("The {x} still lies {at}.", "As for the {x}, it is {at} to this day."), x=full, at=inside(thing.holder))
        if dice.chance(0.6):
            self.say(self.any("At home {A} still had {x}.", "{A} counted once more: {x}."), hero, x=listed(self.stock))
        if dice.chance(0.5):
            self.say(self.any("{A} had {n} left.", "{A} went to bed with {n} under the pillow."), hero, n=self.money(hero.coins))
        if dice.chance(0.6):
            self.say(self.any("In {town} they say that {m}.", "And {A} learned that {m}.", "It is true that {m}."), hero, town=self.town, m=dice.apt(w.MORALS, self.trouble.noun))

    def tell(self) -> str:
        self.open()
        self.rest()
        self.obtain(self.things[0], [])
        self.mend()
        self.close()
        return "\n".join(" ".join(lines) for lines in self.paragraphs if lines)


def stories(seed: int) -> Iterator[str]:
    """Endless different stories; the same seed tells the same ones in the same order, everywhere.

    A story is plain ASCII, its paragraphs parted by one newline, with none at its end.
    """
    dice = Dice(seed)
    while True:
        yield Tale(dice).tell()
