/** Where a conversation branches: which branch is shown, and the way to the others. */

import { t } from "../messages/language";
import { useWorkbench } from "../state/workbench";
import { focusWhenLost, messageElement } from "../state/focus";
import { IconButton } from "./icon-button";

export function BranchStepper({ id }: { id: string }) {
  const { talk } = useWorkbench();
  const branches = talk?.branchesAt(id) ?? [];
  if (!talk || branches.length < 2) {
    return null;
  }
  const at = branches.indexOf(id);
  const go = (step: number) => {
    const next = branches[at + step]!;
    talk.choose(next);
    // The version that comes has a stepper of its own; at the first and the last only one of its buttons can be pressed.
    focusWhenLost(() => {
      const message = messageElement(next);
      const holder = message?.closest(".round")?.nextElementSibling ?? message;
      const buttons = holder?.querySelectorAll<HTMLButtonElement>(".branch-stepper button") ?? [];
      return [...buttons].filter((button) => !button.disabled).at(step < 0 ? 0 : -1);
    });
  };
  return (
    <div class="branch-stepper" role="group" aria-label={t.transcript.versions}>
      <IconButton icon="left" label={t.transcript.earlier} size={15} isDisabled={at === 0} onClick={() => go(-1)} />
      <span aria-label={t.transcript.versionOf(at + 1, branches.length)} role="img">
        {at + 1}/{branches.length}
      </span>
      <IconButton icon="right" label={t.transcript.later} size={15} isDisabled={at === branches.length - 1} onClick={() => go(1)} />
    </div>
  );
}
