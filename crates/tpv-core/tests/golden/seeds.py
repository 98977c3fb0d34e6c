"""Seeds and first draws by an independent implementation, for tests/sampling.rs.

Run: python3 seeds.py (no packages needed). Prints the two constants that the test holds.
"""

MASK64, MASK128 = (1 << 64) - 1, (1 << 128) - 1


def splitmix64(value):
    z = (value + 0x9E3779B97F4A7C15) & MASK64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK64
    return z ^ (z >> 31)


def combine(*parts):
    state = 0
    for part in parts:
        state = splitmix64(state ^ part)
    return state


class Pcg64:
    """PCG-XSL-RR-128/64 as in O'Neill's paper: advance, then output."""

    MULTIPLIER = 0x2360ED051FC65DA44385DF649FCCF645

    def __init__(self, seed):
        word = [combine(seed, n) for n in range(4)]
        self.increment = ((word[2] << 64 | word[3]) << 1 | 1) & MASK128
        self.state = ((word[0] << 64 | word[1]) + self.increment) & MASK128
        self.advance()

    def advance(self):
        self.state = (self.state * self.MULTIPLIER + self.increment) & MASK128

    def next_u64(self):
        self.advance()
        folded = (self.state >> 64 ^ self.state) & MASK64
        turn = self.state >> 122
        return (folded >> turn | folded << (64 - turn)) & MASK64 if turn else folded


if __name__ == "__main__":
    print("SEED_42_0_0 =", combine(42, 0, 0))
    generator = Pcg64(combine(42, 3, 1))
    print("DRAWN_42_3_1 =", [generator.next_u64() * 1000 >> 64 for _ in range(8)])
