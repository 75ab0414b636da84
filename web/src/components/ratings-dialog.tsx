/** What was rated, as files to train on. */

import { Fragment } from "preact";
import { useEffect, useState } from "preact/hooks";
import { t } from "../messages/language";
import { useWorkbench } from "../state/workbench";
import { saveLines } from "../transfer/files";
import { ratedOf, type Rated } from "../transfer/training";
import { IconButton } from "./icon-button";
import { Overlay } from "./overlay";

const KINDS: readonly { kind: keyof Rated; file: string; command: string | null }[] = [
  {
    kind: "conversations",
    file: "rated-conversations.jsonl",
    command: "chatsmith sft runs/mine --conversations rated-conversations.jsonl",
  },
  {
    kind: "problems",
    file: "rated-problems.jsonl",
    command: "chatsmith rl runs/mine --problems rated-problems.jsonl",
  },
  {
    kind: "pairs",
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
    <Overlay class="dialog ratings" label={t.ratings.title} onClose={close}>
      <div class="dialog-head">
        <h2>{t.ratings.title}</h2>
        <IconButton icon="close" label={t.ratings.close} onClick={close} />
      </div>
      <p>
        {rated?.conversations.length === 0
          ? t.ratings.nothing
          : t.ratings.explained}
      </p>
      {KINDS.map(({ kind, file, command }) => {
        const lines = rated?.[kind] ?? [];
        return (
          <section key={kind}>
            <div>
              <h3>{t.ratings[kind]}</h3>
              <p>{t.ratings[`${kind}Say`]}</p>
              {command && <Command text={command} />}
            </div>
            <button
              type="button"
              class="button"
              disabled={lines.length === 0}
              aria-label={t.ratings.saveLabel(lines.length, t.ratings[kind])}
              onClick={() => saveLines(file, lines)}
            >
              {t.ratings.save(lines.length)}
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
