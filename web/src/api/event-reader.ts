/**
 * Server-sent events out of bytes (HTML standard, "Server-sent events": parsing an event stream).
 *
 * Bytes may arrive cut anywhere: inside a character, inside a line end, inside an event. Only the data of events
 * is given out; names, ids, retry times and comments (which keep an idle connection open) are passed over, and so
 * is an event that the end of the stream leaves unfinished.
 */
export class EventReader {
  private readonly decoder = new TextDecoder();
  private line = "";
  private data: string[] = [];
  private afterReturn = false;

  /** The data of every event that these bytes complete, oldest first. */
  push(bytes: Uint8Array): string[] {
    const events: string[] = [];
    for (const character of this.decoder.decode(bytes, { stream: true })) {
      const isReturn = character === "\r";
      const endsLine = isReturn || (character === "\n" && !this.afterReturn);
      if (endsLine) {
        this.endLine(events);
      } else if (character !== "\n") {
        this.line += character;
      }
      this.afterReturn = isReturn;
    }
    return events;
  }

  private endLine(events: string[]): void {
    if (this.line === "") {
      if (this.data.length > 0) {
        events.push(this.data.join("\n"));
      }
      this.data = [];
      return;
    }
    const colon = this.line.indexOf(":");
    const field = colon < 0 ? this.line : this.line.slice(0, colon);
    if (field === "data") {
      const value = colon < 0 ? "" : this.line.slice(colon + 1);
      this.data.push(value.startsWith(" ") ? value.slice(1) : value);
    }
    this.line = "";
  }
}

/** The data of each event in `body`, as it arrives. Ends with the body; throws what reading it throws. */
export async function* readEvents(body: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  const events = new EventReader();
  const reader = body.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) {
        return;
      }
      yield* events.push(value);
    }
  } finally {
    // A consumer that stops early must not leave the server writing into a connection nobody reads.
    void reader.cancel().catch(() => undefined);
  }
}
