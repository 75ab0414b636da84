/** Keeps what fails to draw from taking the rest of the page along. */

import { Component, type ComponentChildren } from "preact";

interface Props {
  /** What stands in the place of that which failed. */
  instead: ComponentChildren;
  /** Once this changes, drawing is tried again. */
  of?: unknown;
  children: ComponentChildren;
}

export class Boundary extends Component<Props, { failed: { of: unknown } | null }> {
  override state = { failed: null };

  override componentDidCatch(error: unknown): void {
    console.warn("A part of the page could not be drawn:", error);
    this.setState({ failed: { of: this.props.of } });
  }

  override render() {
    const failed = this.state.failed as { of: unknown } | null;
    return failed && failed.of === this.props.of ? this.props.instead : this.props.children;
  }
}
