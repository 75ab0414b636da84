/** A reply of the model: what it said, as text or as tokens, and what can be done with it. */

import { isEmpty, plainText, type Part, type Reply as ReplyMessage } from "../conversation/message";
import { isNarrow } from "../state/screen";
import { useWorkbench } from "../state/workbench";
import { BranchStepper } from "./branch-stepper";
import { Figures } from "./figures";
import { Icon } from "./icon";
import { IconButton } from "./icon-button";
import { Markdown } from "./markdown";
import { Menu, type MenuItem } from "./menu";
import { ProblemCard } from "./problem-card";
import { ReplyTokens } from "./reply-tokens";
import { ToolCard } from "./tool-card";

export function Reply({ reply, isLast }: { reply: ReplyMessage; isLast: boolean }) {
  const bench = useWorkbench();
  const isWriting = reply.state === "writing";
  const showsTokens = bench.view.showsTokens(reply.id) && reply.tokens.length > 0;
  return (
    <article
      class={`message reply ${isWriting ? "is-writing" : ""} ${isLast ? "is-last" : ""}`}
      data-message={reply.id}
      tabIndex={-1}
      aria-label={`${reply.model || "The model"} replied`}
      aria-busy={isWriting}
    >
      <div class="reply-mark" aria-hidden="true">
        <Icon name="anvil" size={20} />
      </div>
      <div class="reply-body">
        {showsTokens ? (
          <ReplyTokens tokens={reply.tokens} onPick={(index, alternative) => bench.branch(reply.id, index, alternative)} />
        ) : (
          <Parts parts={reply.parts} />
        )}
        {isWriting && reply.parts.length === 0 && <Pulse />}
        {reply.state === "done" && reply.parts.length === 0 && <p class="silent">The model ended its reply at once.</p>}
        <ProblemCard reply={reply} />
        <div class="message-foot">
          {reply.figures && reply.tokens.length > 0 && <Figures values={reply.figures} />}
          {!isWriting && reply.state !== "waiting" && <Actions reply={reply} isFolded={isNarrow.value && !isLast} />}
        </div>
      </div>
    </article>
  );
}

/** What can be done with a reply: as buttons, or folded into a menu where there is little room. */
function Actions({ reply, isFolded }: { reply: ReplyMessage; isFolded: boolean }) {
  const bench = useWorkbench();
  const { id } = reply;
  const tokens: MenuItem = { icon: "lens", label: "Show tokens", run: () => bench.view.toggleTokens(id) };
  const goOn: MenuItem = { icon: "forward", label: "Continue reply", run: () => bench.resume(id) };
  const copy: MenuItem = { icon: "copy", label: "Copy reply", run: () => void bench.copy(plainText(reply)) };
  const again: MenuItem = { icon: "redo", label: "Regenerate", run: () => bench.regenerate(id) };
  const actions: MenuItem[] = [
    ...(isEmpty(reply) ? [] : [copy]),
    ...(reply.state === "failed" ? [] : [again]),
    ...(bench.canResume(reply) ? [goOn] : []),
    ...(reply.tokens.length > 0 ? [tokens] : []),
    { icon: "prompt", label: "Show its prompt", run: () => bench.view.showPromptOf(id) },
    { icon: "trash", label: "Delete reply", run: () => bench.deleteMessage(id) },
  ];
  return (
    <div class="actions">
      <BranchStepper id={id} />
      {isFolded ? (
        <Menu label="Actions for this reply" items={actions} />
      ) : (
        actions.map((action) => (
          <IconButton
            key={action.label}
            icon={action.icon}
            label={action.label}
            onClick={action.run}
            {...(action === tokens && { isPressed: bench.view.showsTokens(id) })}
          />
        ))
      )}
    </div>
  );
}

function Parts({ parts }: { parts: readonly Part[] }) {
  return (
    <>
      {parts.map((part, index) => {
        if (part.kind === "text") {
          return <Markdown key={index} text={part.text} />;
        }
        if (part.kind === "python") {
          const next = parts[index + 1];
          return <ToolCard key={index} expression={part.text} result={next?.kind === "output" ? next.text : null} />;
        }
        return null; // shown with its call
      })}
    </>
  );
}

/** Shown until the first token comes. */
function Pulse() {
  return (
    <div class="pulse" role="img" aria-label="The model is reading">
      <i />
      <i />
      <i />
    </div>
  );
}
