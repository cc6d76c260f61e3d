"""Names of containers: the rules and the random ones for containers that were given none."""

import random
import re
from collections.abc import Callable

from longshore.errors import InvalidArgument

PATTERN = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
LONGEST = 128  # file names, host names and log lines stay readable; Docker knows no limit

_ADJECTIVES = ["able", "amber", "apt", "ardent", "bold", "brave", "breezy", "bright", "brisk", "calm", "candid", "cheery", "civil", "clear", "clever", "cosy", "crisp", "daring", "deft", "eager", "early", "earnest", "easy", "even", "fair", "fearless", "fine", "firm", "fleet", "fluent", "fond", "free", "fresh", "gallant", "gentle", "glad", "golden", "good", "grand", "handy", "happy", "hardy", "hearty", "honest", "humble", "ideal", "jolly", "jovial", "keen", "kind", "lasting", "lively", "lofty", "loyal", "lucid", "lucky", "mellow", "merry", "mighty", "mild", "modest", "neat", "nimble", "noble", "open", "patient", "peppy", "placid", "plain", "plucky", "polite", "prime", "proud", "quick", "quiet", "rapid", "ready", "robust", "rosy", "sane", "serene", "sharp", "shiny", "silver", "sleek", "smart", "snug", "sober", "solid", "sound", "spry", "stable", "steady", "still", "stout", "sturdy", "subtle", "sunny", "sure", "swift", "tidy", "tough", "trim", "trusty", "upbeat", "vast", "vivid", "warm", "wise", "witty"]

# People of computing, mathematics, the sea and the ports.
_SURNAMES = ["abbe", "adams", "aiken", "allen", "amundsen", "anning", "backus", "bardeen", "barentsz", "bartik", "beaufort", "bell", "bering", "berners", "blackwell", "bohr", "booth", "bose", "brahe", "byron", "cabot", "carson", "cerf", "cabral", "clarke", "cocke", "codd", "columbus", "cook", "cray", "curie", "dias", "dijkstra", "drake", "earle", "easley", "eckert", "edison", "erdos", "erlang", "euler", "faraday", "fermat", "floyd", "frobisher", "galileo", "galois", "gama", "gauss", "germain", "godel", "goldberg", "gray", "hamilton", "harrison", "heyerdahl", "hilbert", "hoare", "holberton", "hopper", "hudson", "humboldt", "hypatia", "iverson", "jackson", "jennings", "johnson", "karp", "kay", "keller", "kepler", "kernighan", "kilby", "knuth", "kovalevsky", "lamarr", "lamport", "leavitt", "liskov", "lovelace", "magellan", "maury", "mauchly", "mccarthy", "mclean", "meitner", "mercator", "mills", "minsky", "moore", "nansen", "naur", "nelson", "newell", "newton", "noether", "noyce", "nygaard", "pascal", "perlman", "perlis", "plimsoll", "postel", "ptolemy", "rabin", "ride", "ritchie", "ross", "rutherford", "sammet", "scott", "shannon", "slocum", "spence", "stallman", "tarjan", "tasman", "tesla", "thompson", "torvalds", "turing", "vaughan", "verrazzano", "vespucci", "villiers", "wallis", "watt", "wilkes", "wilkinson", "wirth", "yonath", "zuse"]


def random_name(taken: Callable[[str], bool], choose: random.Random | None = None) -> str:
    """A free `adjective_surname`; a number follows when chance keeps finding used ones."""
    chance = choose or random.SystemRandom()
    for attempt in range(1000):
        name = f"{chance.choice(_ADJECTIVES)}_{chance.choice(_SURNAMES)}"
        if attempt >= 5:
            name += str(chance.randrange(10 ** (1 + attempt // 20)))
        if not taken(name):
            return name
    raise RuntimeError("no free container name found")  # needs 10^50 containers


def check_name(name: str) -> str:
    """The name without the leading slash that old clients send. Raises InvalidArgument."""
    bare = name.removeprefix("/")
    if not PATTERN.fullmatch(bare) or len(bare) > LONGEST:
        rule = "only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
        if len(bare) > LONGEST:
            rule = f"at most {LONGEST} characters are allowed"
        raise InvalidArgument(f"Invalid container name ({name}), {rule}")
    return bare
