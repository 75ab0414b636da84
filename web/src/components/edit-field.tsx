/** The field to change what was said, and what is done with the changed text: the last is what Enter does. */

import { useLayoutEffect, useRef, useState } from "preact/hooks";
import { t } from "../messages/language";
import { messageField } from "../state/focus";
import { useWorkbench } from "../state/workbench";
import { GrowingField } from "./growing-field";

/** More than this of a text is not put into a field: every key would lay all of it out anew. */
const MOST = 20_000;

interface Props {
  label: string;
  text: string;
  hint: string;
  sends: readonly { label: string; run: (text: string) => void }[];
}

export function EditField({ label, text: before, hint, sends }: Props) {
  const bench = useWorkbench();
  const [text, setText] = useState(before.slice(0, MOST));
  const field = useRef<HTMLTextAreaElement>(null);
  // Before the next key can come: an effect after the drawing would move the caret of someone who writes already.
  useLayoutEffect(() => {
    field.current?.focus();
    field.current?.setSelectionRange(text.length, text.length);
  }, []);

  function leave() {
    bench.view.editing.value = null;
    messageField()?.focus();
  }

  function send({ run }: Props["sends"][number]) {
    if (text.trim() !== "") {
      run(text);
      messageField()?.focus();
    }
  }

  function onKeyDown(event: KeyboardEvent) {
    if (event.key === "Escape") {
      event.stopPropagation();
      leave();
    } else if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      send(sends.at(-1)!);
    }
  }

  return (
    <div class="edit">
      <GrowingField innerRef={field} label={label} value={text} onInput={setText} onKeyDown={onKeyDown} />
      <div class="edit-buttons">
        <span class="edit-hint">
          {before.length > MOST && t.message.firstOf(MOST)}
          {hint}
        </span>
        <button type="button" class="button" onClick={leave}>
          {t.common.cancel}
        </button>
        {sends.map((each, index) => (
          <button
            key={each.label}
            type="button"
            class={`button ${index === sends.length - 1 ? "is-primary" : ""}`}
            disabled={text.trim() === ""}
            onClick={() => send(each)}
          >
            {each.label}
          </button>
        ))}
      </div>
    </div>
  );
}
