/** What to type, with a button that copies it. */

import { useState } from "preact/hooks";
import { Icon } from "../components/icon";
import { t } from "../messages/language";

export function Command({ text }: { text: string }) {
  const [isCopied, setIsCopied] = useState(false);
  return (
    <p class="command">
      <code>{text}</code>
      <button
        type="button"
        class="icon-button"
        aria-label={t.runs.copyCommand}
        title={t.common.copy}
        onClick={() => void navigator.clipboard?.writeText(text).then(() => setIsCopied(true))}
      >
        <Icon name={isCopied ? "check" : "copy"} size={16} />
      </button>
    </p>
  );
}
