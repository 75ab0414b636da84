/**
 * What tabs that show the same conversations tell each other. The conversations themselves they share in the database:
 * news only says what is to be read anew there. Without BroadcastChannel a tab reads anew when it is looked at.
 */

export type News =
  /** Title, settings or date of a conversation. */
  | { kind: "conversation"; id: string }
  /** Messages that were added, changed or deleted. */
  | { kind: "messages"; conversation: string; ids: string[] }
  | { kind: "deleted"; id: string }
  /** Conversations were added, or so much that all is to be read. */
  | { kind: "list" }
  /** Who is writing these replies? */
  | { kind: "who"; ids: string[] }
  | { kind: "writing"; ids: string[] }
  /** Whoever writes this reply is to stop. */
  | { kind: "stop"; id: string };

/** A tab that writes a reply says so within this time, or it is no more. */
const ANSWER_MILLISECONDS = 300;

export class Tabs {
  onNews: (news: News) => void = () => undefined;
  private readonly channel = typeof BroadcastChannel === "undefined" ? null : new BroadcastChannel("chatsmith");
  private readonly listeners = new Set<(ids: readonly string[]) => void>();

  constructor() {
    this.channel?.addEventListener("message", ({ data }: MessageEvent<News>) => {
      if (data.kind === "writing") {
        this.listeners.forEach((listener) => listener(data.ids));
      } else {
        this.onNews(data);
      }
    });
  }

  tell(news: News): void {
    this.channel?.postMessage(news);
  }

  /** Which of these replies other tabs are writing. */
  async writing(ids: readonly string[]): Promise<Set<string>> {
    const found = new Set<string>();
    if (!this.channel || ids.length === 0) {
      return found;
    }
    await new Promise<void>((resolve) => {
      const finish = () => {
        clearTimeout(timer);
        this.listeners.delete(listener);
        resolve();
      };
      const listener = (written: readonly string[]) => {
        written.filter((id) => ids.includes(id)).forEach((id) => found.add(id));
        if (found.size === ids.length) {
          finish();
        }
      };
      const timer = setTimeout(finish, ANSWER_MILLISECONDS);
      this.listeners.add(listener);
      this.tell({ kind: "who", ids: [...ids] });
    });
    return found;
  }
}
