//! A stack of known size for the template engine, which recurses over nested expressions and
//! values: how deep is up to the template, so the caller's stack would be the template's to
//! overflow.

use std::thread;

use super::error::ChatError;

/// Holds the deepest recursion that a template of the longest accepted source, or values nested
/// with all of a render's fuel, can cause. Only what is touched takes memory.
const STACK: usize = 256 << 20;

/// Runs `work` on such a stack.
pub(super) fn on_large<T: Send>(
    work: impl FnOnce() -> Result<T, ChatError> + Send,
) -> Result<T, ChatError> {
    thread::scope(|scope| {
        let name = "chat-template".to_string();
        let worker = thread::Builder::new().name(name).stack_size(STACK).spawn_scoped(scope, work);
        let worker =
            worker.map_err(|e| ChatError::Failed(format!("cannot start a thread: {e}")))?;
        worker.join().unwrap_or_else(|_| Err(ChatError::Failed("the engine panicked".to_string())))
    })
}
