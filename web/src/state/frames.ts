/**
 * Work at most once a frame: a reply of hundreds of tokens a second is drawn sixty times a second, and typing
 * stays smooth beside it. A page that nobody sees, or a busy machine, may have no frames; there it works a few times a second.
 */

const WITHOUT_FRAMES_MILLISECONDS = 200;

export class OncePerFrame {
  private isPlanned = false;

  constructor(private readonly work: () => void) {}

  /** Have the work done soon, once, however often this is called before. */
  plan(): void {
    if (this.isPlanned) {
      return;
    }
    this.isPlanned = true;
    setTimeout(() => this.now(), WITHOUT_FRAMES_MILLISECONDS);
    requestAnimationFrame(() => this.now());
  }

  /** Have it done at once, if it was planned. */
  now(): void {
    if (this.isPlanned) {
      this.isPlanned = false;
      this.work();
    }
  }
}
