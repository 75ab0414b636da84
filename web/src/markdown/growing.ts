/**
 * Markdown that grows at its end, cut into its top-level blocks so that finished ones need not be drawn again.
 *
 * Only from the last block on is the text read anew: what comes can still turn that one into something else (a
 * paragraph into a heading or a table), but nothing before it. Blocks are read one by one, so a link whose address
 * is defined in another block stays plain text.
 */

import { blockSources } from "./to-html";

export class GrowingMarkdown {
  private text = "";
  private blocks: string[] = [];

  /** The sources of the blocks of `text`, in order; together they are the text. */
  update(text: string): readonly string[] {
    if (text === this.text) {
      return this.blocks;
    }
    const kept = text.startsWith(this.text) ? finished(this.blocks) : [];
    const length = kept.reduce((sum, block) => sum + block.length, 0);
    this.text = text;
    this.blocks = [...kept, ...blockSources(text.slice(length))];
    return this.blocks;
  }
}

/** All but the last block that is more than blank lines, and what follows it. */
function finished(blocks: readonly string[]): string[] {
  const last = blocks.findLastIndex((block) => block.trim() !== "");
  return blocks.slice(0, Math.max(last, 0));
}
