"""A small world that tells stories: the text that the pocket model learns and is measured on.

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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeVar
from zlib import crc32

from quanttui.models.pocket import phrases as p
from quanttui.models.pocket import words as w
from quanttui.models.pocket.words import Spot

T = TypeVar("T")


class Dice:
    """Every choice a story makes, drawn from one seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed).random

    def below(self, n: int) -> int:
        """0 to n - 1, evenly."""
        return int(self._random() * n)

    def chance(self, probability: float) -> bool:
        return self._random() < probability

    def pick(self, options: Sequence[T]) -> T:
        return options[self.below(len(options))]

    def apt(self, options: tuple[str, ...], word: str) -> str:
        """One of the options, the likelier the better it suits the word: what a reader can learn of this world."""
        draw = self._random()
        return habits(options, word)[int(draw * draw * len(options))]

    def some(self, options: Sequence[T], k: int) -> list[T]:
        """k different options, in drawn order."""
        rest = list(options)
        return [rest.pop(self.below(len(rest))) for _ in range(k)]


@cache
def habits(options: tuple[str, ...], word: str) -> tuple[str, ...]:
    """The options in the order in which they suit the word: an arbitrary one, and always the same."""
    return tuple(sorted(options, key=lambda option: crc32(f"{word} {option}".encode())))


class Slots(dict[str, object]):
    """What a template may ask for: values put in, and draws made when first asked for and then kept."""

    def __init__(self, draws: dict[str, Callable[[], str]]) -> None:
        super().__init__()
        self._draws = draws

    def __missing__(self, key: str) -> object:
        value = self[key] = self._draws[key]()
        return value

    def fill(self, template: str) -> str:
        return template.format_map(self)


@dataclass(eq=False)
class Person:
    """Somebody with a part in the story, who stays where they are unless they are the hero."""

    name: str
    she: bool
    role: str
    trait: str
    feature: str
    at: Spot
    coins: int = 0

    def __str__(self) -> str:
        return self.name

    @property
    def he(self) -> str:
        return "she" if self.she else "he"

    @property
    def him(self) -> str:
        return "her" if self.she else "him"

    @property
    def his(self) -> str:
        return "her" if self.she else "his"

    @property
    def one_role(self) -> str:
        return article(self.role)

    @property
    def one_trait(self) -> str:
        return article(self.trait)

    @property
    def character(self) -> str:
        return article(f"{self.trait} {self.role}")


@dataclass(eq=False)
class Thing:
    """Something that can be had: lying at a place, or held by a person."""

    noun: str
    adjective: str
    holder: Person | Spot

    def __str__(self) -> str:
        return self.noun

    @property
    def full(self) -> str:
        return f"{self.adjective} {self.noun}"

    @property
    def one(self) -> str:
        return article(self.noun)

    @property
    def one_full(self) -> str:
        return article(self.full)

    @property
    def spot(self) -> Spot:
        """Where it is to be had."""
        return self.holder.at if isinstance(self.holder, Person) else self.holder


def article(phrase: str) -> str:
    """The phrase with its indefinite article."""
    vowel = (phrase[0] in "aeiou" and not phrase.startswith("one-")) or phrase.startswith("honest")
    return ("an " if vowel else "a ") + phrase


def listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def money(coins: int) -> str:
    return f"{w.NUMBERS[coins]} coin" if coins == 1 else f"{w.NUMBERS[coins]} coins"


def remainder(coins: int) -> str:
    return f"{w.NUMBERS[coins]} were left" if coins > 1 else "one was left" if coins else "none was left"


class World:
    """Who and what is where, drawn once; and small draws of what else may be seen or said in it."""

    def __init__(self, dice: Dice) -> None:
        self.dice = dice
        self.town = self.elsewhere()
        self.season, self.climate = dice.pick(w.SEASONS)
        self.day, self.hour = dice.pick(w.DAYS), dice.below(3)
        self.spots = dice.some(w.SPOTS, 4 + dice.below(3))
        self.ways = self._ways()
        self.people = self._people(4 + dice.below(2))
        self.hero, *self.others = self.people
        self.hero.coins = 2 + dice.below(9)
        self.home = self.hero.at
        self.trouble = dice.pick(w.TROUBLES)
        self.needed, *self.spare = self.things = self._things()
        self.beast = f"{dice.pick(w.COATS)} {dice.pick(w.BEASTS)}" if dice.chance(0.35) else ""
        self.stock = listed([self.load(self.hero.role) for _ in range(2 + dice.below(3))])

    def _ways(self) -> dict[tuple[Spot, Spot], str]:
        """A tree of roads between the places, each walked in its own way."""
        ways: dict[tuple[Spot, Spot], str] = {}
        for i, road in enumerate(self.dice.some(w.WAYS, len(self.spots) - 1), start=1):
            one, other = self.spots[i], self.spots[self.dice.below(i)]
            ways[one, other] = ways[other, one] = road
        return ways

    def _people(self, n: int) -> list[Person]:
        dice, people = self.dice, dict[str, Person]()
        features = dice.some(w.FEATURES, n)
        while len(people) < n:
            she = dice.chance(0.5)
            name, role = self.name(she), dice.pick(w.ROLES)
            person = Person(name, she, role, dice.apt(w.TRAITS, role), features[len(people)], dice.pick(self.spots))
            people.setdefault(name, person)
        return list(people.values())

    def _things(self) -> list[Thing]:
        """The needed thing, out of the hero's reach; then spare ones, spread over people and places."""
        dice, away = self.dice, [spot for spot in self.spots if spot is not self.home]
        holder: Person | Spot = dice.pick(self.others) if dice.chance(0.7) else dice.pick(away)
        things = [Thing(self.trouble.noun, dice.apt(w.ADJECTIVES, self.trouble.noun), holder)]
        for noun in dice.some(w.SPARE, 4):
            holder = dice.pick(self.people) if dice.chance(0.6) else dice.pick(away)
            things.append(Thing(noun, dice.apt(w.ADJECTIVES, noun), holder))
        return things

    def here(self) -> list[Person]:
        """Everybody at the hero's place but the hero."""
        return [person for person in self.others if person.at is self.hero.at]

    def bag(self) -> list[Thing]:
        return [thing for thing in self.spare if thing.holder is self.hero]

    def path(self, goal: Spot) -> list[Spot]:
        """The places from the next one to the goal, along the roads."""
        came: dict[Spot, Spot] = {goal: goal}
        queue = deque([goal])
        while queue:
            spot = queue.popleft()
            for other in self.spots:
                if (spot, other) in self.ways and other not in came:
                    came[other] = spot
                    queue.append(other)
        steps, at = list[Spot](), self.hero.at
        while at is not goal:
            at = came[at]
            steps.append(at)
        return steps

    def name(self, she: bool) -> str:
        if self.dice.chance(0.55):
            return self.dice.pick(w.SHE if she else w.HE)
        return self.dice.pick(w.NAME_HEADS) + self.dice.pick(w.SHE_TAILS if she else w.HE_TAILS)

    def stranger(self) -> str:
        """A name that nobody in the story bears."""
        name = self.name(self.dice.chance(0.5))
        return name if all(person.name != name for person in self.people) else self.stranger()

    def elsewhere(self) -> str:
        """A town."""
        head = self.dice.pick(w.TOWN_HEADS)
        return head + self.dice.apt(w.TOWN_TAILS, head)

    def weather(self) -> str:
        return self.dice.pick(w.WEATHER[self.dice.pick(self.climate)])

    def looks(self, folk: str) -> str:
        return article(f"{self.dice.apt(w.LOOKS, folk)} {folk}")

    def clutter(self, near: str) -> str:
        """Something to be behind or beside, such as: leaning haystack."""
        what = self.dice.apt(w.STUFF, near)
        return f"{self.dice.apt(w.STATES, what)} {what}"

    def load(self, suits: str) -> str:
        """A number of goods, such as: seven golden pears."""
        goods = self.dice.apt(w.GOODS, suits)
        state = self.dice.apt(w.STATES, goods) + " " if self.dice.chance(0.7) else ""
        return f"{w.NUMBERS[2 + self.dice.below(11)]} {state}{goods}"

    def goods(self) -> str:
        """A list of goods, such as: hats, long ropes and bells."""
        goods = self.dice.some(w.GOODS, 2 + self.dice.below(3))
        bare = self.dice.chance(0.5)
        return listed([each if bare else f"{self.dice.apt(w.STATES, each)} {each}" for each in goods])

    def scene(self, doer: str = "") -> Slots:
        """Draws for what goes on beside the story; `doer`: by whose habits, else by those of somebody passing."""
        dice = self.dice

        def of(key: str) -> str:
            return str(slots[key])

        draws: dict[str, Callable[[], str]] = {
            "who": lambda: doer or dice.pick(w.FOLK),
            "whoever": lambda: dice.pick(w.FOLK),
            "one": lambda: self.looks(dice.pick(w.FOLK) if doer else of("who")),
            "two": lambda: self.looks(of("whoever")),
            "does": lambda: dice.apt(w.DOES, of("who")),
            "does_too": lambda: dice.apt(w.DOES, of("whoever")),
            "did": lambda: dice.apt(w.DID, of("who")),
            "near": lambda: dice.pick(w.NEAR),
            "stuff": lambda: article(self.clutter(of("near"))),
            "clutter": lambda: self.clutter("the"),
            "how": lambda: dice.apt(w.MANNER, of("who")),
            "load": lambda: self.load(of("who")),
            "more": lambda: self.load(of("load").split()[-1]),
            "goods": self.goods,
            "near_too": lambda: dice.pick(w.NEAR),
            "stuff_too": lambda: article(self.clutter(of("near_too"))),
            "stranger": self.stranger,
            "stranger_too": self.stranger,
            "did_together": lambda: dice.apt(w.PAST, of("stranger")[:2]),
            "topic": lambda: dice.apt(w.TOPICS, of("who")),
            "food": lambda: dice.apt(w.FOODS, of("who")),
            "mood": lambda: dice.apt(w.MOODS, of("who")),
            "town": self.elsewhere,
            "day": lambda: dice.pick(w.DAYS),
            "mine": lambda: dice.apt(w.MINE, of("who")),
            "kin": lambda: dice.apt(w.KIN, of("who")),
            "somebody": lambda: slots.fill(dice.pick(p.SOMEBODY)),
        }
        slots = Slots(draws)
        return slots


class Tale:
    """The telling of one world's story: what happens, and the sentences that say so."""

    def __init__(self, dice: Dice) -> None:
        self.dice = dice
        self.world = World(dice)
        self.hero = self.world.hero
        self.paragraphs: list[list[str]] = [[]]
        self.clear: Person | None = None  # whom a pronoun would mean
        self.met: list[Person] = []
        self.helpers: list[Person] = []

    def tell(self) -> str:
        self.begin()
        self.pause()
        self.obtain(self.world.needed, [])
        self.mend()
        self.end()
        return "\n".join(" ".join(sentences) for sentences in self.paragraphs if sentences)

    # -- sentences -----------------------------------------------------------------------------------------------------

    def say(
        self, templates: tuple[str, ...], a: Person | None = None, b: Person | None = None, **given: object
    ) -> None:
        """One sentence about A (and B), whose template may ask for what is given and for what the world draws."""
        slots = self.world.scene(a.role if a else "")
        slots.update(given, A=a, B=b)
        if a is not None:
            slots["a"] = a.he if a is self.clear and self.dice.chance(0.8) else a.name
        text = slots.fill(self.dice.pick(templates))
        self.paragraphs[-1].append(text[0].upper() + text[1:])
        self.clear = a if b is None or (a is not None and a.she != b.she) else None

    def speak(
        self, who: Person, verb: str, templates: tuple[str, ...], b: Person | None = None, **given: object
    ) -> None:
        """A line of dialogue, its speaker named before or after it."""
        slots = self.world.scene(who.role)
        slots.update(given, B=b)
        line = slots.fill(self.dice.pick(templates))
        line = line[0].upper() + line[1:]
        asks = line.endswith("?")
        if self.dice.chance(0.7):
            self.paragraphs[-1].append(f'"{line}{"" if asks else ","}" {verb} {who}.')
        else:
            self.paragraphs[-1].append(f'{who} {verb}: "{line}{"" if asks else "."}"')
        self.clear = who

    def pause(self) -> None:
        """A new paragraph."""
        if self.paragraphs[-1]:
            self.paragraphs.append([])
        self.clear = None

    # -- beginnings ----------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        world, hero, dice = self.world, self.hero, self.dice
        self.say(p.HERO, hero, town=world.town, years=w.NUMBERS[2 + dice.below(11)])
        if world.beast:
            self.say(p.BEAST, hero, beast=world.beast, one_beast=article(world.beast))
        one_season = article(world.season)
        hour, weather = w.HOURS[world.hour], world.weather()
        self.say(p.DAY, season=world.season, one_season=one_season, day=world.day, hour=hour, weather=weather)
        mood = dice.pick(("worried", "angry", "sad", "puzzled"))
        self.say(p.TROUBLE, hero, home=world.home, wrong=world.trouble.wrong, mood=mood)
        self.say(p.NEED, hero, thing=world.needed)
        if world.bag():
            self.say(p.BAG, hero, bag=listed([thing.one_full for thing in world.bag()]))
        self.say(p.PURSE, hero, coins=money(hero.coins))
        self.say(p.STOCK, hero, stock=world.stock)

    # -- on the way ----------------------------------------------------------------------------------------------------

    def go(self, goal: Spot) -> None:
        hero, dice, world = self.hero, self.dice, self.world
        for spot in world.path(goal):
            how = dice.apt(w.MANNER, hero.trait)
            self.say(p.TRAVEL, hero, way=world.ways[hero.at, spot], spot=spot, old=hero.at, how=how)
            hero.at = spot
            while dice.chance(0.66):
                self.say(p.ASIDE)
            if world.beast and dice.chance(0.15):
                self.say(p.BEAST_ON_THE_WAY, beast=world.beast)
        if dice.chance(0.55):
            self.say(p.ARRIVAL, hero, spot=goal, sight=dice.pick(goal.sights))
        self.time_passes()
        self.look_around()

    def time_passes(self) -> None:
        """Now and then the hour or the weather moves on, and the text says so."""
        if self.dice.chance(0.3) and self.world.hour < len(w.LATER):
            self.say((w.LATER[self.world.hour],))
            self.world.hour += 1
        elif self.dice.chance(0.25):
            self.say(p.WEATHER_TURNS, weather=self.world.weather())

    def look_around(self) -> None:
        """Whatever lies here and whoever is here may be seen, as they truly are."""
        for thing in self.world.spare:
            if thing.holder is self.hero.at and self.dice.chance(0.5):
                self.say(p.LYING_AROUND, thing=thing)
        for person in self.world.here():
            if self.dice.chance(0.5):
                self.say(p.NEXT_MEETING if person in self.met else p.FIRST_MEETING, person)
                self.met.append(person)

    # -- asking --------------------------------------------------------------------------------------------------------

    def find(self, thing: Thing, asked: list[Person]) -> None:
        """Ask from place to place, passing over those already asked, until the way is known; then go there."""
        unseen = [spot for spot in self.world.spots if spot is not self.hero.at]
        while not self.ask(thing, asked) and thing.spot is not self.hero.at:
            self.say(p.ASIDE)
            if self.dice.chance(0.3):
                self.speak(self.hero, "thought", w.MUSINGS)
            self.pause()
            self.go(unseen.pop(self.dice.below(len(unseen))))
        if thing.spot is not self.hero.at:
            self.pause()
            self.go(thing.spot)

    def ask(self, thing: Thing, asked: list[Person]) -> bool:
        """Ask the people here; true once somebody has said where the thing is."""
        for person in self.world.here():
            if person in asked:
                continue
            asked.append(person)
            self.pause()
            if self.dice.chance(0.5):
                self.gossip(person)
            self.speak(self.hero, "asked", p.ASKING, person, thing=thing, town=self.world.town)
            if self.answer(person, thing):
                return True
            if self.dice.chance(0.6):
                self.gossip(person)
        return False

    def answer(self, person: Person, thing: Thing) -> bool:
        if thing.holder is person:
            self.speak(person, "answered", p.MINE, thing=thing)
        elif self.dice.chance(0.4):
            self.speak(person, "answered", p.NO_IDEA)
            return False
        elif isinstance(thing.holder, Person):
            self.speak(person, "answered", p.SOMEBODY_HAS_ONE, thing.holder, thing=thing, spot=thing.spot)
        else:
            self.speak(person, "answered", p.IT_LIES, thing=thing, spot=thing.spot)
        return True

    def gossip(self, person: Person) -> None:
        """What people say besides."""
        self.speak(person, self.dice.apt(w.SAYS, person.trait), p.GOSSIP)

    # -- getting -------------------------------------------------------------------------------------------------------

    def obtain(self, thing: Thing, asked: list[Person], depth: int = 0) -> None:
        """Find the thing and make it the hero's, by whatever its holder asks for it."""
        self.find(thing, asked)
        if isinstance(thing.holder, Person):
            self.helpers.append(thing.holder)
            self.bargain(thing, thing.holder, depth)
        else:
            self.say(p.FOUND, self.hero, thing=thing)
        thing.holder = self.hero

    def bargain(self, thing: Thing, owner: Person, depth: int) -> None:
        bag = self.world.bag()
        wishes = [t for t in self.world.spare if t is not thing and t.holder is not owner and t not in bag]
        deals: list[Callable[[], None]] = [lambda: self.gift(thing, owner), lambda: self.work(thing, owner)]
        if self.hero.coins:
            deals += [lambda: self.pay(thing, owner)] * 2
        if bag:
            deals += [lambda: self.swap(thing, owner, self.dice.pick(bag), depth)] * 3
        if depth < 2 and wishes:
            deals += [lambda: self.swap(thing, owner, self.dice.pick(wishes), depth)] * (4 - 2 * depth)
        self.speak(self.hero, "asked", p.REQUEST, thing=thing)
        self.dice.pick(deals)()

    def gift(self, thing: Thing, owner: Person) -> None:
        self.speak(owner, "said", p.GIFT, thing=thing)
        self.say(p.GIVEN, self.hero, owner, thing=thing, times=w.NUMBERS[2 + self.dice.below(4)])

    def work(self, thing: Thing, owner: Person) -> None:
        task = self.dice.apt(w.FAVOURS, owner.role)
        self.speak(owner, "said", p.TASK, thing=thing, task=task)
        self.say(p.WORK, self.hero, task=task)
        self.time_passes()
        self.gossip(owner)
        self.say(p.EARNED, owner, self.hero, thing=thing, mood="pleased")

    def pay(self, thing: Thing, owner: Person) -> None:
        had, price = self.hero.coins, 1 + self.dice.below(self.hero.coins)
        self.speak(owner, "said", p.PRICE, price=money(price))
        self.hero.coins -= price
        left = remainder(self.hero.coins)
        self.say(p.PAID, self.hero, coins=money(had), paid=w.NUMBERS[price], left=left)

    def swap(self, thing: Thing, owner: Person, other: Thing, depth: int) -> None:
        """Trade the thing for another, which the hero may first have to get."""
        self.speak(owner, "said", p.WISH, thing=thing, other=other, why=w.WANTS[other.noun])
        if other.holder is self.hero:
            self.say(p.AT_HAND, self.hero, other=other)
        else:
            self.say(p.ERRAND, self.hero, other=other)
            self.obtain(other, [owner], depth + 1)
            self.pause()
            self.go(owner.at)
        self.say(p.SWAPPED, self.hero, owner, thing=thing, other=other)
        other.holder = owner

    # -- endings -------------------------------------------------------------------------------------------------------

    def mend(self) -> None:
        hero, world = self.hero, self.world
        self.pause()
        if hero.at is not world.home:
            self.say(p.HOMEWARD, hero, home=world.home)
            self.go(world.home)
        self.say(p.MENDED, hero, thing=world.needed, mended=world.trouble.mended)

    def end(self) -> None:
        hero, world, dice = self.hero, self.world, self.dice
        if self.helpers and dice.chance(0.6):
            self.say(p.THANKS, hero, dice.pick(self.helpers), mood="glad")
        for thing in dice.some(world.things, 1 + dice.below(3)):
            if isinstance(thing.holder, Person):
                self.say(p.KEPT, thing.holder, thing=thing)
            else:
                self.say(p.STILL_LIES, thing=thing, spot=thing.spot)
        if dice.chance(0.6):
            self.say(p.STOCK_AGAIN, hero, stock=world.stock)
        if dice.chance(0.5):
            self.say(p.COINS_AGAIN, hero, coins=money(hero.coins))
        if dice.chance(0.6):
            self.say(p.MORAL, hero, town=world.town, moral=dice.apt(w.MORALS, world.needed.noun))


def stories(seed: int) -> Iterator[str]:
    """Endless different stories; the same seed tells the same ones in the same order, everywhere.

    A story is plain ASCII, its paragraphs parted by one newline, with none at its end.
    """
    dice = Dice(seed)
    while True:
        yield Tale(dice).tell()
