/** Something said in passing, with something to do about it for as long as it shows. */

import { focusWhenLost, messageField } from "../state/focus";
import { useWorkbench } from "../state/workbench";

export function NoticeBar() {
  const { notice } = useWorkbench().view;
  const shown = notice.value;
  return (
    <div class="notices" role="status">
      {shown && (
        <div class="notice">
          {shown.text}
          {shown.action && (
            <button
              type="button"
              onClick={() => {
                shown.action?.run();
                notice.value = null;
                focusWhenLost(messageField);
              }}
            >
              {shown.action.label}
            </button>
          )}
        </div>
      )}
    </div>
  );
}
