/** What the person said, and the field to say it differently. */

import { useLayoutEffect, useRef, useState } from "preact/hooks";
import type { UserMessage as Message } from "../conversation/message";
import { isNarrow } from "../state/screen";
import { useWorkbench } from "../state/workbench";
import { BranchStepper } from "./branch-stepper";
import { GrowingField } from "./growing-field";
import { IconButton } from "./icon-button";
import { Menu, type MenuItem } from "./menu";

export function UserMessage({ message }: { message: Message }) {
  const bench = useWorkbench();
  const { editing } = bench.view;
  const actions: MenuItem[] = [
    { icon: "edit", label: "Edit message", run: () => (editing.value = message.id) },
    { icon: "copy", label: "Copy message", run: () => void bench.copy(message.text) },
    { icon: "trash", label: "Delete message", run: () => bench.deleteMessage(message.id) },
  ];
  return (
    <article class="message said" data-message={message.id} tabIndex={-1} aria-label="You said">
      {editing.value === message.id ? (
        <EditField message={message} />
      ) : (
        <>
          <Bubble text={message.text} />
          <div class="actions">
            <BranchStepper id={message.id} />
            {isNarrow.value ? (
              <Menu label="Actions for your message" items={actions} />
            ) : (
              actions.map(({ icon, label, run }) => <IconButton key={label} icon={icon} label={label} onClick={run} />)
            )}
          </div>
        </>
      )}
    </article>
  );
}

/** More than this of a text is drawn, or put into a field, only when asked for. */
const LONG = 20_000;
const SHOWN_OF_LONG = 3_000;

function Bubble({ text }: { text: string }) {
  const [isWhole, setIsWhole] = useState(false);
  const isCut = text.length > LONG && !isWhole;
  return (
    <div class="bubble" dir="auto">
      {isCut ? `${text.slice(0, SHOWN_OF_LONG)}…` : text}
      {isCut && (
        <button type="button" class="button bubble-more" onClick={() => setIsWhole(true)}>
          Show all {text.length.toLocaleString("en")} characters
        </button>
      )}
    </div>
  );
}

function EditField({ message }: { message: Message }) {
  const bench = useWorkbench();
  const [text, setText] = useState(message.text.slice(0, LONG));
  const field = useRef<HTMLTextAreaElement>(null);
  // Before the next key can come: an effect after the drawing would move the caret of someone who writes already.
  useLayoutEffect(() => {
    field.current?.focus();
    field.current?.setSelectionRange(text.length, text.length);
  }, []);

  function leave() {
    bench.view.editing.value = null;
    document.querySelector<HTMLElement>("#message")?.focus();
  }

  function send() {
    if (text.trim() !== "") {
      bench.sendInstead(message, text);
      document.querySelector<HTMLElement>("#message")?.focus();
    }
  }

  function onKeyDown(event: KeyboardEvent) {
    if (event.key === "Escape") {
      event.stopPropagation();
      leave();
    } else if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      send();
    }
  }

  return (
    <div class="edit">
      <GrowingField innerRef={field} label="Edit message" value={text} onInput={setText} onKeyDown={onKeyDown} />
      <div class="edit-buttons">
        <span class="edit-hint">
          {message.text.length > LONG && `These are its first ${LONG.toLocaleString("en")} characters. `}
          Asks again in a new version; the old one stays.
        </span>
        <button type="button" class="button" onClick={leave}>
          Cancel
        </button>
        <button type="button" class="button is-primary" disabled={text.trim() === ""} onClick={send}>
          Send
        </button>
      </div>
    </div>
  );
}
