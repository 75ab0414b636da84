/** What the person said. */

import { useState } from "preact/hooks";
import type { UserMessage as Message } from "../conversation/message";
import { isNarrow } from "../state/screen";
import { useWorkbench } from "../state/workbench";
import { BranchStepper } from "./branch-stepper";
import { EditField } from "./edit-field";
import { IconButton } from "./icon-button";
import { Menu, type MenuItem } from "./menu";

export function UserMessage({ message }: { message: Message }) {
  const bench = useWorkbench();
  const { editing } = bench.view;
  const actions: MenuItem[] = [
    ...(message.results === undefined
      ? [{ icon: "edit", label: "Edit message", run: () => (editing.value = message.id) } as const]
      : []),
    { icon: "copy", label: "Copy message", run: () => void bench.copy(message.text) },
    { icon: "link", label: "Copy a link to it", run: () => void bench.copyLink(message.id) },
    { icon: "trash", label: "Delete message", run: () => bench.deleteMessage(message.id) },
  ];
  return (
    <article class="message said" data-message={message.id} tabIndex={-1} aria-label={message.results ? "The tools answered" : "You said"}>
      {editing.value === message.id ? (
        <EditField
          label="Edit message"
          text={message.text}
          hint="Asks again in a new version; the old one stays."
          sends={[{ label: "Send", run: (text) => bench.sendInstead(message, text) }]}
        />
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
