/** What else the model might have said in a token's place, and the way to go on from it. */

import type { Alternative, Token } from "../conversation/message";
import { END_OF_REPLY, isSpecial, probability } from "../conversation/tokens";
import { Icon } from "./icon";
import { t } from "../messages/language";
import { percent, visibleText } from "./token-text";

/** Marks that a branch may begin with. The end of a call is none: the tool answers where the model ended one itself. */
const USABLE_MARKS: ReadonlySet<string> = new Set([END_OF_REPLY, "<|python_start|>"]);

interface Props {
  token: Token;
  /** Goes on from an alternative; where nobody can, they are only shown. */
  onPick: ((alternative: Alternative) => void) | undefined;
}

export function TokenInspector({ token, onPick }: Props) {
  const chance = probability(token);
  if (token.origin === "given") {
    return <p class="inspector-note">{t.inside.calculatorPut}</p>;
  }
  if (token.origin === "written") {
    return <p class="inspector-note">{t.inside.youWrote}</p>;
  }
  const choices = withChosen(token);
  const rest = 1 - choices.reduce((sum, choice) => sum + probability(choice)!, 0);
  return (
    <>
      <div class="inspector-head">
        <code class="inspector-token">{visibleText(token.text, token.bytes)}</code>
        <span class="inspector-chance">{chance === null ? "" : percent(chance)}</span>
        {token.ids.every((id) => id >= 0) && <span class="inspector-id">{t.inside.id(token.ids.join(" "))}</span>}
      </div>
      {token.origin === "picked" && <p class="inspector-note">{t.inside.youPut}</p>}
      <ol class="alternatives" aria-label={t.inside.alternatives}>
        {choices.map((alternative) => (
          <AlternativeRow
            key={alternative.id}
            alternative={alternative}
            isChosen={alternative.id === token.ids[0]}
            likeliest={Math.max(...choices.map((choice) => probability(choice)!))}
            onPick={onPick && (() => onPick(alternative))}
          />
        ))}
      </ol>
      {rest > 0.0005 && <p class="inspector-rest">{t.inside.rest(percent(rest))}</p>}
      {onPick && (
        <p class="inspector-hint">
          <Icon name="branch" size={14} /> {t.inside.choose}
        </p>
      )}
    </>
  );
}

/** The likeliest tokens, and the one that was chosen, however unlikely it was. */
function withChosen(token: Token): Alternative[] {
  const { ids, text, bytes, logprob, alternatives } = token;
  if (logprob === null || alternatives.some(({ id }) => id === ids[0])) {
    return alternatives;
  }
  return [...alternatives.slice(0, -1), { id: ids[0]!, text, logprob, ...(bytes && { bytes }) }];
}

interface RowProps {
  alternative: Alternative;
  isChosen: boolean;
  /** The probability of the first: its bar is the whole row. */
  likeliest: number;
  onPick: (() => void) | undefined;
}

function AlternativeRow({ alternative, isChosen, likeliest, onPick }: RowProps) {
  const chance = probability(alternative)!;
  const { text, bytes } = alternative;
  const isUsable = isChosen ? text !== END_OF_REPLY : !isSpecial(text) || USABLE_MARKS.has(text);
  const does = isChosen ? t.inside.writesRest : t.inside.goesOn;
  const kind = `alternative ${isChosen ? "is-chosen" : ""}`;
  const style = { "--share-of-row": chance / likeliest };
  const contents = (
    <>
      <code class={isSpecial(text) ? "is-special" : ""}>{visibleText(text, bytes)}</code>
      {isChosen && <Icon name="check" size={14} />}
      <span>{percent(chance)}</span>
    </>
  );
  if (!onPick) {
    return (
      <li class={kind} style={style}>
        {contents}
      </li>
    );
  }
  return (
    <li>
      <button
        type="button"
        class={kind}
        disabled={!isUsable}
        title={does}
        style={style}
        onClick={onPick}
      >
        {contents}
      </button>
    </li>
  );
}
