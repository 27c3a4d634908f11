"""The sentences of the pocket stories, as templates: several ways to say each thing that may happen.

`{A}` and `{B}` are people (by name; `.he`, `.him`, `.his`, `.role`, `.character`, `.feature`), `{a}` is A by pronoun
where that is plain, `{thing}` and `{other}` are things (`.full` with the adjective, `.one` and `.one_full` with the
article), `{spot}` and `{old}` are places (`.inside` with the preposition); the rest is drawn as the teller says.
Sentences get their capital from the teller. Owns no choice: order matters, for the teller draws by index.
"""

from __future__ import annotations

# -- beginnings --------------------------------------------------------------------------------------------------------

HERO = (
    "{A} was {A.one_role} in {town}, and everyone there called {A.him} {A.trait}.",
    "in {town} there lived {A.character} whose name was {A}.",
    "there was once {A.character} in {town} named {A}.",
    "of all the people in {town}, {A} the {A.role} was the most {A.trait}.",
    "{A}, {A.character}, had lived in {town} for {years} years.",
    "when {A} the {A.role} came to {town}, {A.he} had {A.feature} and {A.one_trait} heart.",
)
BEAST = (
    "{a} never went anywhere without {A.his} {beast}.",
    "{a} had {one_beast}, which followed {A.him} everywhere.",
    "{a} shared {A.his} house with {one_beast}.",
)
DAY = (
    "it was {season}, and {weather}.",
    "one day in {season}, {hour}, {weather}.",
    "that {day} {weather}.",
    "on {one_season} {day} {weather}.",
)
TROUBLE = (
    "{a} was {home.inside} when {A.he} heard that {wrong}.",
    "{a} stood {home.inside} and saw the trouble: {wrong}.",
    "that was the day when {wrong}.",
    "{a} was {home.inside}, and {A.he} was {mood}, for {wrong}.",
)
NEED = (
    "what {a} needed was {thing.one}.",
    "without {thing.one} nothing could be done.",
    "{a} had no {thing}, and that was the whole trouble.",
    "only {thing.one} would help now.",
    "{a} knew at once that it would take {thing.one}.",
)
BAG = (
    "in {A.his} bag {a} had {bag}.",
    "{a} owned little: {bag}.",
    "{a} took {bag} along, just in case.",
)
PURSE = (
    "{a} had {coins} in {A.his} pocket.",
    "{a} counted {A.his} money: {coins}.",
    "{a} had saved {coins}, and no more.",
)
STOCK = (
    "at home {a} had {stock}.",
    "{A}'s house was full: {stock}.",
    "{a} was not rich, but at home there were {stock}.",
)

# -- on the way --------------------------------------------------------------------------------------------------------

TRAVEL = (
    "{a} went {way} to the {spot}.",
    "{a} walked {way} until {A.he} came to the {spot}.",
    "{a} left the {old} {how} and went {way} to the {spot}.",
    "from the {old} {a} hurried {way} to the {spot}.",
    "{a} set out {how} {way}, and reached the {spot}.",
    "{how}, {a} made {A.his} way {way} to the {spot}.",
    "{a} went {way}, past {stuff} and {stuff_too}, to the {spot}.",
    "{a} passed {one} and {stuff} {way}, and came to the {spot}.",
    "{way} {a} met {one}, {two} and {load}; then came the {spot}.",
)
BEAST_ON_THE_WAY = (
    "the {beast} ran ahead.",
    "the {beast} came slowly behind.",
    "halfway there the {beast} refused to go on.",
)
ARRIVAL = (
    "there {sight}.",
    "{spot.inside}, {sight}.",
    "it was as always: {sight}.",
    "{spot.inside} {one} {does} {near} {stuff}.",
    "there {a} saw {goods}, {one} and {stuff}.",
)
WEATHER_TURNS = (
    "now {weather}.",
    "by then {weather}.",
    "soon {weather}.",
)
LYING_AROUND = (
    "{thing.one_full} lay there, and nobody seemed to miss it.",
    "somebody had left {thing.one_full} behind.",
    "on a shelf stood {thing.one_full}.",
)
FIRST_MEETING = (
    "{A}, the {A.role}, was there too.",
    "{A} the {A.role} was eating {food}.",
    "{A}, {A.character}, looked up and nodded.",
    "the {A.role}, whose name was {A}, sat there and looked {mood}.",
    "{A} the {A.role}, known for {A.feature}, {does} {near} {stuff}.",
    "there was also {A}, {A.character} with {A.feature}.",
)
NEXT_MEETING = (
    "{A} {does} {near} {stuff}.",
    "{A} with {A.feature} {does} {near} {stuff}.",
    "the {A.role} with {A.feature} was there again, and it was {A}.",
    "{A} was still eating {food}.",
)
ASIDE = (
    "{one} {does} {near} {stuff}.",
    "{one} {does} {how}, {two} {does_too}.",
    "{one} and {two} talked {how} of {topic}.",
    "{near} {stuff} {one} {does}, {near_too} {stuff_too} {two}.",
    "{one} came by {how} with {load}.",
    "{one} had {did} {load}, {two} {more}.",
    "{one} gave {two} {load} for {more}.",
    "{near} {stuff} lay {load}, {more} and {stuff_too}.",
    "{one} pointed {how} at {two}.",
    "{near} {stuff} lay {goods}.",
    "{one} sold {goods} to {two}.",
    "{one} from {town} brought {load}, {more} and {stuff}.",
    "{stranger}, {stranger_too} and {two} {did_together} {load}.",
    "it smelled of {food} and {load}.",
    "{stranger} sang {how} of {goods}.",
    "{stranger} from {town} {did_together} {load}, {stranger_too} {more}.",
    "{stranger} of {town} was {mood}: {goods} {near} {stuff}!",
)

# -- talk --------------------------------------------------------------------------------------------------------------

GOSSIP = (
    "{somebody} has {did} {load}",
    "have you heard that {somebody} has {did} {load}, {more} and {stuff}?",
    "last {day} {somebody} {does} {near} {stuff}",
    "in {town} they talk of {topic} and eat {food}",
    "I dreamed of {load} and {one}",
    "for {load} you get {more} in {town}",
    "{stranger} of {town} wants {goods}",
    "my {mine} was called {stranger} and {does} in {town}",
)
SOMEBODY = ("my {mine}", "{one} from {town}", "my {kin} in {town}")
ASKING = (
    "good day, {B}, do you know where I can find {thing.one}?",
    "I am looking for {thing.one}, have you seen one?",
    "{B}, who in {town} has {thing.one}?",
    "tell me, {B}, where would you look for {thing.one}?",
)
MINE = (
    "you have come to the right place, for I have {thing.one_full}",
    "I own {thing.one_full} myself",
    "this {thing.full} here is mine",
)
NO_IDEA = (
    "I have no idea",
    "I have never seen one here",
    "ask somebody else, I am busy",
    "I wish I knew",
    "there used to be one, but that was years ago",
)
SOMEBODY_HAS_ONE = (
    "{B} the {B.role} has {thing.one_full}, and you will find {B.him} {spot.inside}",
    "go to the {spot} and ask for {B}",
    "{B} has one, {spot.inside}",
)
IT_LIES = (
    "I saw {thing.one_full} {spot.inside}",
    "there is {thing.one_full} lying {spot.inside}",
    "look {spot.inside}, there should be one",
)
REQUEST = (
    "may I have your {thing}?",
    "I need {thing.one} badly, would you part with yours?",
    "what would you take for the {thing.full}?",
    "would you let me have that {thing}?",
)

# -- getting -----------------------------------------------------------------------------------------------------------

FOUND = (
    "{a} looked behind the {clutter}, and there it was: {thing.one_full}.",
    "{near} the {clutter} {a} found {thing.one_full}.",
    "after a long search {a} held {thing.one_full} in {A.his} hands.",
    "{a} saw {thing.one_full} at once and picked it up.",
)
GIFT = (
    "take the {thing}, I never use it",
    "you helped me once, so it is yours",
    "of course, what are neighbours for?",
    "keep it as long as you like",
)
GIVEN = (
    "so {a} got the {thing} for nothing.",
    "{a} could hardly believe it and thanked {B.him} {times} times.",
    "{a} took the {thing} and bowed.",
)
TASK = (
    "first {task}, and the {thing} is yours",
    "you may have it if you {task}",
    "I am tired, so {task} for me, and then we will see",
)
WORK = (
    "so {a} had to {task}.",
    "it was no joke to {task}, but {a} did it.",
    "{a} rolled up {A.his} sleeves and began to {task}.",
)
EARNED = (
    "when it was done, {a} gave {B.him} the {thing.full}.",
    "{a} was {mood} and handed over the {thing.full}.",
    "{a} kept {A.his} word, and the {thing.full} changed hands.",
)
PRICE = (
    "it costs {price}",
    "for {price} it is yours",
    "give me {price} and take it",
)
PAID = (
    "{a} had {coins}, paid {paid}, and so {left}.",
    "{a} paid {paid} of {A.his} {coins}, and {left}.",
)
WISH = (
    "bring me {other.one} {why}, and the {thing} is yours",
    "I want {other.one} {why}, nothing else",
    "I would trade it for {other.one}, which I need {why}",
)
AT_HAND = (
    "{a} was lucky, for {A.he} had {other.one_full} with {A.him}.",
    "{a} opened {A.his} bag and took out {other.one_full}.",
)
ERRAND = (
    "so now {a} had to find {other.one} first.",
    "{a} promised to come back with {other.one}.",
    "{a} sighed and set out again, this time for {other.one}.",
)
SWAPPED = (
    "{a} gave {B} the {other} and got the {thing.full} for it.",
    "{B} took the {other.full} from {B.his} visitor, and {A} took the {thing}.",
    "the {other.full} went to {B}, and the {thing} went to {A}.",
)

# -- endings -----------------------------------------------------------------------------------------------------------

HOMEWARD = (
    "now {a} could go home.",
    "{a} turned back towards the {home}.",
    "it was time to go back to the {home}.",
)
MENDED = (
    "{a} took the {thing} and {mended}.",
    "with the {thing.full} in hand, {a} {mended}.",
    "at last {a} had {A.his} {thing.full}: {A.he} {mended}.",
)
THANKS = (
    "that evening {a} and {B} ate {food} together.",
    "{a} sent {B} some {food} to say thank you.",
    "the next day {a} brought {B} {food}, and {B.he} was {mood}.",
)
KEPT = (
    "the {thing.full} belongs to {A} now.",
    "{A} still has the {thing.full}.",
    "the {thing.full} stayed with {A}.",
)
STILL_LIES = (
    "the {thing.full} still lies {spot.inside}.",
    "as for the {thing.full}, it is {spot.inside} to this day.",
)
STOCK_AGAIN = (
    "at home {a} still had {stock}.",
    "{a} counted once more: {stock}.",
)
COINS_AGAIN = (
    "{a} had {coins} left.",
    "{a} went to bed with {coins} under the pillow.",
)
MORAL = (
    "in {town} they say that {moral}.",
    "and {a} learned that {moral}.",
    "it is true that {moral}.",
)
