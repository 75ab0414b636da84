/** What was rated, as files to train on. */

import { Fragment } from "preact";
import { useEffect, useState } from "preact/hooks";
import { useWorkbench } from "../state/workbench";
import { saveLines } from "../transfer/files";
import { ratedOf, type Rated } from "../transfer/training";
import { IconButton } from "./icon-button";
import { Overlay } from "./overlay";

const KINDS: readonly { kind: keyof Rated; title: string; says: string; file: string; command: string | null }[] = [
  {
    kind: "conversations",
    title: "Conversations",
    says: "The model learns the good replies; the others it only reads.",
    file: "rated-conversations.jsonl",
    command: "chatsmith sft runs/mine --conversations rated-conversations.jsonl",
  },
  {
    kind: "problems",
    title: "Problems",
    says: "Good replies that end in a whole number, or are short, as answers that can be checked.",
    file: "rated-problems.jsonl",
    command: "chatsmith rl runs/mine --problems rated-problems.jsonl",
  },
  {
    kind: "pairs",
    title: "Pairs",
    says: "A good and a bad reply to the same message, for other programs that train on preferences.",
    file: "rated-pairs.jsonl",
    command: null,
  },
];

export function RatingsDialog() {
  const bench = useWorkbench();
  const [rated, setRated] = useState<Rated | null>(null);
  const close = () => (bench.view.dialog.value = null);
  useEffect(() => {
    let isGone = false;
    void bench.library.everything().then((all) => isGone || setRated(ratedOf(all)));
    return () => void (isGone = true);
  }, []);
  return (
    <Overlay class="dialog ratings" label="Rated replies" onClose={close}>
      <div class="dialog-head">
        <h2>Rated replies</h2>
        <IconButton icon="close" label="Close rated replies" onClick={close} />
      </div>
      <p>
        {rated?.conversations.length === 0
          ? "Nothing is rated as good yet: the thumbs under a reply do it."
          : "What you rated in all conversations of this browser, as files to train on."}
      </p>
      {KINDS.map(({ kind, title, says, file, command }) => {
        const lines = rated?.[kind] ?? [];
        return (
          <section key={kind}>
            <div>
              <h3>{title}</h3>
              <p>{says}</p>
              {command && <Command text={command} />}
            </div>
            <button
              type="button"
              class="button"
              disabled={lines.length === 0}
              aria-label={`Save ${lines.length.toLocaleString("en")}: ${title.toLowerCase()}`}
              onClick={() => saveLines(file, lines)}
            >
              Save {lines.length.toLocaleString("en")}
            </button>
          </section>
        );
      })}
    </Overlay>
  );
}

/** A command that is broken between its words only, not at hyphens. */
function Command({ text }: { text: string }) {
  return (
    <code>
      {text.split(" ").map((word, index) => (
        <Fragment key={index}>
          <span>{word}</span>{" "}
        </Fragment>
      ))}
    </code>
  );
}
