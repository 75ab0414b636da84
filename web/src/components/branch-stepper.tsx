/** Where a conversation branches: which branch is shown, and the way to the others. */

import { useWorkbench } from "../state/workbench";
import { IconButton } from "./icon-button";

export function BranchStepper({ id }: { id: string }) {
  const { talk } = useWorkbench();
  const branches = talk?.branchesAt(id) ?? [];
  if (!talk || branches.length < 2) {
    return null;
  }
  const at = branches.indexOf(id);
  const go = (step: number) => talk.choose(branches[at + step]!);
  return (
    <div class="branch-stepper" role="group" aria-label="Versions of this message">
      <IconButton icon="left" label="Earlier version" size={15} isDisabled={at === 0} onClick={() => go(-1)} />
      <span aria-label={`Version ${at + 1} of ${branches.length}`} role="img">
        {at + 1}/{branches.length}
      </span>
      <IconButton icon="right" label="Later version" size={15} isDisabled={at === branches.length - 1} onClick={() => go(1)} />
    </div>
  );
}
