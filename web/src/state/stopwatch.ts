/** Tokens that came within so many milliseconds came in one or two reads: the time between them says nothing. */
const SHORTEST = 50;

/** Measures a reply: the time to its first token, and the rate of those that follow. */
export class Stopwatch {
  private readonly start = performance.now();
  private first: number | null = null;
  private last: number | null = null;
  private tokensAfterFirst = 0;

  /** `knownFirst`: a time to the first token that was measured already, for a reply that goes on. */
  constructor(private readonly knownFirst: number | null = null) {}

  /** `tokens` have just come. */
  count(tokens: number): void {
    if (tokens === 0) {
      return;
    }
    const now = performance.now();
    if (this.first === null) {
      this.first = now;
      this.tokensAfterFirst += tokens - 1;
    } else {
      this.tokensAfterFirst += tokens;
    }
    this.last = now;
  }

  /** Seconds until the first token; null before it has come. */
  get firstToken(): number | null {
    return this.knownFirst ?? (this.first === null ? null : (this.first - this.start) / 1000);
  }

  /** Tokens per second after the first, or, of a very short reply, from the beginning; null before there is a second. */
  get rate(): number | null {
    if (this.first === null || this.last === null || this.tokensAfterFirst === 0) {
      return null;
    }
    const afterFirst = this.last - this.first;
    return afterFirst >= SHORTEST
      ? (1000 * this.tokensAfterFirst) / afterFirst
      : (1000 * (this.tokensAfterFirst + 1)) / Math.max(1, this.last - this.start);
  }
}
