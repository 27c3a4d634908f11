"""The lexicon of the pocket stories: plain tables and nothing else.

Owns which people, places, things, troubles and turns of phrase exist. Must not know how a story is told.
Order matters: the teller draws by index, so a change here changes every story.
"""

from __future__ import annotations

from typing import NamedTuple

# fmt: off


class Spot(NamedTuple):
    """A place: its noun, the preposition one is there with, and things one may notice there."""

    noun: str
    prep: str
    sights: tuple[str, ...]

    def __str__(self) -> str:
        return self.noun

    @property
    def inside(self) -> str:
        return f"{self.prep} the {self.noun}"


class Trouble(NamedTuple):
    """Why a story happens: what went wrong, the noun that mends it, and how it is mended with that noun."""

    wrong: str
    noun: str
    mended: str


SHE = ("Mara", "Ilse", "Nell", "Odette", "Wren", "Petra", "Hanne", "Sefa", "Lotte", "Brina", "Tilda", "Agnes", "Yara",
       "Maud", "Corin", "Elsbet", "Rosa", "Juno", "Kaia", "Dagny", "Vesna", "Freda", "Amina", "Zelda", "Oona",
       "Linnet")
HE = ("Tobin", "Aldo", "Jory", "Emil", "Bram", "Oskar", "Finn", "Hugo", "Leif", "Milo", "Anton", "Rufus", "Casper",
      "Dov", "Ezra", "Gregor", "Ivo", "Joss", "Kester", "Lorenz", "Matti", "Nils", "Otto", "Pavel", "Rolf", "Silas")
NAME_HEADS = ("Bar", "Cal", "Dor", "Fen", "Gal", "Hal", "Kel", "Lar", "Mor", "Nor", "Per", "Ran", "Sel", "Tam", "Val",
              "Wil")
SHE_TAILS = ("da", "la", "mina", "ra", "sa", "wen", "dith", "ka")
HE_TAILS = ("bert", "den", "gan", "rick", "ton", "vin", "mar", "dric")
TOWN_HEADS = ("Alder", "Black", "Cold", "Crow", "Dun", "East", "Fox", "Gold", "High", "Lamb", "Mill", "North", "Old",
              "Raven", "Salt", "Stone", "Thorn", "White", "Wolf", "Winter")
TOWN_TAILS = ("bridge", "brook", "cliff", "dale", "field", "ford", "gate", "ham", "haven", "hill", "mere", "stead",
              "ton", "wick", "wood")

ROLES = ("baker", "carpenter", "cobbler", "weaver", "fisher", "shepherd", "miller", "potter", "smith", "tailor",
         "gardener", "clockmaker", "beekeeper", "painter", "teacher", "ferry keeper", "lamp lighter", "bell ringer",
         "cook", "mason", "rope maker", "glass blower", "bookbinder", "farmer", "sailor", "fiddler", "herb seller",
         "charcoal burner")
TRAITS = ("patient", "stubborn", "cheerful", "quiet", "clever", "careful", "forgetful", "brave", "shy", "proud",
          "kind", "restless", "sleepy", "curious", "honest", "gruff", "gentle", "hasty", "thrifty", "merry", "solemn",
          "nosy")
KIN = ("brother", "sister", "cousin", "neighbour", "friend", "uncle", "aunt", "pupil", "partner")
BEASTS = ("dog", "goat", "crow", "cat", "donkey", "goose", "pony", "hen")
COATS = ("black", "white", "grey", "brown", "spotted", "one-eyed", "lame", "fat", "thin", "old")

SPOTS = (
    Spot("mill", "at", ("the wheel turned slowly", "white dust lay on every beam", "a cat slept on the sacks")),
    Spot("harbour", "at", ("the boats knocked against the wall", "gulls fought over a fish head",
          "nets hung drying in rows")),
    Spot("market", "in", ("the stalls were half empty", "someone was shouting about eels",
          "the scales clinked and swung")),
    Spot("forest", "in", ("the ferns stood as high as a child", "a woodpecker was at work",
          "the light came down green")),
    Spot("orchard", "in", ("the ladders leaned in the trees", "wasps crawled over the windfalls",
          "the grass was long and wet")),
    Spot("chapel", "in", ("the candles burned low", "a swallow had built above the door",
          "the stone floor was cold")),
    Spot("smithy", "at", ("the fire glowed red", "sparks jumped from the anvil", "horseshoes hung along the wall")),
    Spot("bakery", "in", ("the oven was still warm", "loaves stood cooling on the shelf", "flour covered the table")),
    Spot("inn", "at", ("the tables were full", "soup steamed in a great pot", "two old men played cards")),
    Spot("quarry", "in", ("the pits were full of brown water", "a crane creaked in the wind",
          "blocks lay about like dice")),
    Spot("lighthouse", "at", ("the stair wound up and up", "the great lamp was being cleaned",
          "waves broke far below")),
    Spot("school", "at", ("the slates were stacked by the door", "a map covered one whole wall",
          "the children were reading aloud")),
    Spot("stable", "in", ("a mare looked over the half door", "the straw smelled sweet",
          "harness hung from wooden pegs")),
    Spot("ferry", "at", ("the rope ran down into the water", "three travellers were waiting", "the river was high")),
    Spot("tower", "in", ("jackdaws lived in the roof", "the bell hung silent", "dust danced in the narrow window")),
    Spot("vineyard", "in", ("the vines ran in straight lines", "baskets stood at the end of each row",
          "a fox slipped away")),
    Spot("barn", "in", ("hay was piled to the rafters", "an owl blinked in the dark", "the big door hung open")),
    Spot("well", "by", ("buckets stood in a ring", "the winch squeaked", "moss grew on the stones")),
    Spot("library", "in", ("books stood in tall dark rows", "someone was snoring behind a newspaper",
          "a clock ticked loudly")),
    Spot("workshop", "in", ("shavings curled on the floor", "tools hung in order of size",
          "glue was warming on the stove")),
    Spot("beach", "on", ("the tide was far out", "a broken boat lay in the sand", "crabs hurried for the pools")),
    Spot("meadow", "in", ("the bees were loud", "poppies stood in the barley", "a hare sat quite still")),
    Spot("kitchen", "in", ("a kettle sang on the hearth", "onions hung from the ceiling",
          "the window was white with steam")),
    Spot("cellar", "in", ("barrels lay in the dark", "something dripped", "the shelves were thick with webs")),
)
WAYS = ("over the old bridge", "along the canal", "up the steep lane", "through the tall reeds", "across the square",
        "down the worn steps", "by the cart road", "through the little gate", "along the wall", "over the hill",
        "past the ruined farm", "through the alley", "across the stepping stones", "under the arch",
        "by the muddy path")

ADJECTIVES = ("brass", "copper", "iron", "wooden", "silver", "tin", "leather", "red", "blue", "green", "yellow",
              "painted", "cracked", "heavy", "tiny", "rusty", "polished", "plain", "dusty", "fine", "crooked",
              "borrowed", "striped")
TROUBLES = (
    Trouble("the roof had begun to leak", "ladder", "climbed up and laid new tiles until no drop came through"),
    Trouble("the lamp in the window had gone out for good", "lantern",
            "hung it in the window, where all could see it shine"),
    Trouble("the door would not open", "key", "turned it twice in the lock, and the door swung wide"),
    Trouble("the boat had come loose from its post", "rope", "tied the boat fast with three good knots"),
    Trouble("the soup tasted of nothing at all", "spoon",
            "stirred in salt and herbs until the whole house smelled of it"),
    Trouble("a fence had fallen and the sheep were out", "hammer", "drove in new nails and closed the gap"),
    Trouble("the well bucket had sunk to the bottom", "hook", "fished the bucket out at the fourth try"),
    Trouble("the feast was near and there was no music", "fiddle", "played until even the oldest of them danced"),
    Trouble("the baby would not sleep", "bell", "rang it softly until the child closed both eyes"),
    Trouble("the old clock had stopped", "spring", "fitted it inside, and the clock began to tick again"),
    Trouble("the coat had torn from neck to hem", "needle", "sewed the tear so neatly that no one could find it"),
    Trouble("the garden was dry and the beans were dying", "bucket",
            "carried water to every row before the sun went down"),
    Trouble("a letter had come that nobody could read", "lens", "held it over the faded ink and read out every word"),
    Trouble("the fire had died and the wood was damp", "tinderbox", "struck one spark, and the fire caught"),
    Trouble("the bread oven was blocked with ash", "shovel", "cleared the ash away and lit a clean new fire"),
    Trouble("a wheel had come off the cart", "wrench", "set the wheel back and tightened every bolt"),
    Trouble("the goat was stuck on a ledge", "net", "lowered it gently and brought the goat down"),
    Trouble("the path home was lost in fog", "compass", "followed its needle all the way home"),
    Trouble("the scarecrow had blown away and crows were at the corn", "drum", "beat it until the last crow had gone"),
    Trouble("the wall of the pigsty had split", "trowel", "filled the crack with fresh mortar"),
    Trouble("the honey was locked hard in its comb", "knife", "cut the comb in squares and let the honey run"),
    Trouble("the flag had faded to grey", "brush", "painted it again in three bright colours"),
    Trouble("the big tree had fallen across the road", "saw", "cut the trunk in pieces and rolled them aside"),
    Trouble("the kite had no tail and would not fly", "ribbon", "tied it on, and the kite went up like a lark"),
    Trouble("the sick horse would not drink", "flask", "gave it the bitter medicine drop by drop"),
    Trouble("the children had nothing to read in the long nights", "book", "read one chapter aloud each evening"),
    Trouble("the seeds had to be in the ground by nightfall", "spade", "dug four long rows and planted them all"),
    Trouble("snow had come through the broken window", "pane", "set it in the frame and kept the cold outside"),
)
SPARE = ("basket", "bottle", "button", "candle", "chair", "cloak", "comb", "cup", "dish", "feather", "flute", "glove",
         "hat", "jar", "kettle", "mirror", "mug", "pipe", "plate", "pot", "purse", "ring", "scarf", "shell", "stool",
         "whistle")
WANTS = {
    "basket": "to carry eggs", "bottle": "for the elder syrup", "button": "for my best coat",
    "candle": "for the long nights",
    "chair": "to sit on at last", "cloak": "against the wind", "comb": "for my tangled hair", "cup": "for my tea",
    "dish": "for the butter", "feather": "to write with", "flute": "to play at weddings",
    "glove": "for my cold left hand",
    "hat": "to keep the sun off", "jar": "for my plums", "kettle": "to boil water in", "mirror": "to see how old I am",
    "mug": "for my beer", "pipe": "to smoke by the fire", "plate": "to eat from", "pot": "for my stew",
    "purse": "to keep my money in", "ring": "for my wedding", "scarf": "for my neck", "shell": "for my collection",
    "stool": "to milk the cow on", "whistle": "to call the dog with",
}
FAVOURS = ("carry twelve sacks up the stairs", "sweep the yard", "peel a mountain of turnips",
           "chop wood for an hour", "wash all the windows", "feed the geese", "count the eggs twice",
           "clean the chimney", "comb the wool", "turn the grindstone", "pull the weeds", "hold the ladder",
           "mind the baby", "stack the crates", "stir the glue", "untangle a long line", "catch the runaway pig",
           "scrub the floor", "sort nails by length", "read an old letter aloud")
FOODS = ("bread", "cheese", "plums", "pears", "soup", "cake", "honey", "smoked fish", "walnuts", "apples", "porridge",
         "pie")

SEASONS = (
    ("spring", ("clear", "showery", "windy", "misty")),
    ("summer", ("hot", "clear", "stormy", "still")),
    ("autumn", ("windy", "misty", "rainy", "clear")),
    ("winter", ("snowy", "frosty", "grey", "still")),
)
WEATHER = {
    "clear": ("the sky was clear", "the sun shone", "there was not one cloud"),
    "showery": ("a shower came and went", "rain fell and stopped again", "a rainbow stood over the roofs"),
    "windy": ("the wind pulled at every shutter", "a strong wind was blowing", "hats flew and doors slammed"),
    "misty": ("mist lay over everything", "the air was white and wet", "the houses were only shadows in the mist"),
    "hot": ("the heat made everyone slow", "the stones were too hot to touch", "the air shook with heat"),
    "stormy": ("thunder rolled behind the hills", "lightning lit the whole street", "the storm broke all at once"),
    "still": ("no leaf moved", "it was strangely still", "smoke rose straight from the chimneys"),
    "rainy": ("it rained without end", "rain ran down the street", "the gutters were full of rain"),
    "snowy": ("snow fell in large soft flakes", "snow lay deep on the road", "it had begun to snow"),
    "frosty": ("frost shone on the grass", "the puddles had frozen", "every breath made a small cloud"),
    "grey": ("the sky was low and grey", "it was neither dark nor light", "a dull grey light lay on the town"),
}
HOURS = ("early in the morning", "in the morning", "at noon", "in the afternoon", "towards evening", "at night")
LATER = ("the morning was wearing on.", "the bells rang noon.", "it was afternoon by now.", "evening came on.",
         "it was night already.")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")

MOODS = ("glad", "tired", "worried", "hopeful", "puzzled", "hungry", "angry", "calm", "sad", "pleased")
MUSINGS = ("It is only a small thing, but small things matter", "Nothing is far if you keep walking",
           "I should have asked sooner", "There is always somebody who knows",
           "If it were easy, it would be done already", "What a day this is turning into",
           "My feet are older than I am", "I will laugh about this tomorrow", "One thing at a time")
MORALS = ("who asks politely finds twice", "a fair trade leaves two people smiling",
          "no errand is as short as it looks", "a friend is worth more than a full purse", "good tools should travel",
          "patience opens more doors than keys do", "what is lent with a smile comes back",
          "even a small village is large enough to get lost in")

# What goes on beside the story: free choice, one word at a time.
FOLK = ("sailor", "widow", "boy", "girl", "monk", "thief", "soldier", "peddler", "nurse", "judge", "beggar", "hunter",
        "singer", "doctor", "carter", "maid", "hermit", "juggler", "captain", "clerk", "miner", "mule", "sparrow",
        "fox", "heron", "swan", "toad", "pig", "calf", "lamb", "mouse", "owl", "bear", "hound", "kitten", "child",
        "stranger", "gravedigger", "barber", "butcher")
LOOKS = ("tall", "small", "young", "pale", "round", "tired", "lonely", "happy", "drunken", "barefoot", "bearded",
         "freckled", "wet", "muddy", "ragged", "busy", "lazy", "nervous", "silent", "noisy", "hungry", "blind",
         "bald", "elderly", "clumsy", "greedy", "polite", "angry", "sunburnt", "frightened")
DOES = ("was singing", "was dancing", "slept", "waited", "stumbled about", "was weeping", "laughed", "stood", "hid",
        "whispered", "wandered", "was knitting", "shivered", "sneezed", "was praying", "rested", "sat", "crouched",
        "was whistling", "limped", "argued", "was digging", "played", "dreamed", "turned in circles", "was eating",
        "knelt", "was drawing")
NEAR = ("behind", "beside", "under", "in front of", "next to", "beyond", "above", "not far from", "inside",
        "on top of", "near")
STUFF = ("barrel", "bench", "boat", "cart", "chest", "crate", "stove", "statue", "fountain", "gate", "haystack",
         "hedge", "ladder", "log", "oven", "pile of stones", "pond", "post", "rosebush", "sack", "shed", "sign",
         "staircase", "table", "tent", "tree", "trough", "wagon", "wall", "willow", "window", "woodpile", "puddle",
         "oak", "pump", "chimney", "bridge", "candlestick")
STATES = ("broken", "burning", "empty", "enormous", "forgotten", "frozen", "golden", "hollow", "leaning", "long",
          "low", "narrow", "new", "old", "open", "overgrown", "purple", "square", "rotten", "round", "shining",
          "smoking", "soft", "splintered", "stone", "sunken", "upturned", "warm", "white", "wide")
MANNER = ("slowly", "quickly", "quietly", "gladly", "sadly", "without a word", "with a smile", "in a hurry",
          "carefully", "at once", "with a heavy heart", "humming", "on tiptoe", "bravely", "out of breath",
          "in good spirits", "shaking with cold", "limping a little", "without looking back",
          "for the second time that day", "proudly", "wearily")
DID = ("sold", "stolen", "lost", "painted", "buried", "bought", "hidden", "found", "broken", "counted", "burned",
       "promised", "forgotten", "mended", "swallowed", "drawn", "weighed", "washed", "thrown away", "given up",
       "dreamed of", "asked for")
GOODS = ("geese", "turnips", "pearls", "letters", "horses", "hats", "cabbages", "nails", "herrings", "bells",
         "goblets", "wigs", "blankets", "pigeons", "spoons", "stockings", "violins", "clocks", "melons", "boots",
         "coffins", "eggs", "ropes", "daggers", "maps", "lemons", "umbrellas", "teeth", "windmills", "secrets")
FEATURES = ("a scar on the chin", "a long grey braid", "a wooden leg", "a crooked nose", "very blue eyes",
            "a patched green apron", "ink on both hands", "a loud laugh", "a straw hat", "a missing tooth",
            "a red woollen shawl", "a limp", "flour in the hair", "enormous boots", "a gold earring",
            "a squeaky voice", "thick eyebrows", "a bandaged thumb", "a velvet waistcoat", "a face like an apple",
            "a hunched back", "a rattling cough", "a feathered cap", "spectacles mended with string")
TOPICS = ("the harvest", "the price of salt", "the new bridge", "bad dreams", "the war", "old songs", "the moon",
          "their mothers", "a wedding", "the flood", "ghosts", "taxes", "the king", "sore feet", "how to bake bread",
          "next winter", "the lost ship", "wolves", "nothing much", "fishing", "the fire at the inn",
          "buried treasure", "the right way to tie a knot", "love", "goats")
MINE = ("grandmother", "grandfather", "wife", "husband", "son", "daughter", "master", "dog", "landlord", "doctor",
        "twin", "godmother")
SAYS = ("said", "sighed", "whispered", "added", "remarked", "muttered", "cried")
PAST = ("sold", "stole", "lost", "painted", "buried", "bought", "hid", "found", "broke", "counted", "burned",
        "forgot", "mended", "swallowed", "drew", "weighed", "washed", "wanted", "loved", "feared")
