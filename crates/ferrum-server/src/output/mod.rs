//! What a model's text means beyond text: tool calls and reasoning.
