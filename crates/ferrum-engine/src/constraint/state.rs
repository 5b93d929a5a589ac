//! A constraint, and one answer within it.

use std::{fmt, sync::Arc};

use ferrum_models::draw::apply_mask;
use llguidance::Matcher;

use super::{
    error::{ConstraintFailure, summary},
    numbers::{NumberGuard, NumberTokens},
};

/// A compiled grammar. Clones are the same one.
#[derive(Clone)]
pub struct Constraint(Arc<Compiled>);

struct Compiled {
    /// Before the first token.
    matcher: Matcher,
    vocab: usize,
    ends: Arc<[u32]>,
    numbers: Option<Arc<NumberTokens>>,
}

impl Constraint {
    pub(super) fn new(
        matcher: Matcher,
        vocab: usize,
        ends: Arc<[u32]>,
        numbers: Option<Arc<NumberTokens>>,
    ) -> Self {
        Constraint(Arc::new(Compiled { matcher, vocab, ends, numbers }))
    }

    /// Tokens of the vocabulary that it was compiled for.
    pub fn vocab(&self) -> usize {
        self.0.vocab
    }

    /// Begins an answer. `ends`: the model's end-of-generation tokens may come where the grammar
    /// accepts; else only a grammar that is complete ends the answer.
    pub fn start(&self, ends: bool) -> ConstraintState {
        let Compiled { matcher, vocab, ends: tokens, numbers } = self.0.as_ref();
        ConstraintState {
            matcher: matcher.deep_clone(),
            numbers: numbers.clone().map(NumberGuard::new),
            barred: if ends { Arc::default() } else { Arc::clone(tokens) },
            mask: TokenMask { words: Vec::new(), vocab: *vocab },
        }
    }
}

impl PartialEq for Constraint {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl fmt::Debug for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Constraint").field("vocab", &self.0.vocab).finish_non_exhaustive()
    }
}

/// The tokens that may come next: a bit for each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenMask {
    words: Vec<u32>,
    vocab: usize,
}

impl TokenMask {
    /// Whether `token` may come. Tokens outside the vocabulary may not.
    pub fn allows(&self, token: u32) -> bool {
        let word = self.words.get(token as usize / 32).copied().unwrap_or_default();
        (token as usize) < self.vocab && word >> (token % 32) & 1 == 1
    }

    /// Takes the tokens that may not come out of a row of logits `[vocab or more]`: minus
    /// infinity. NaN stays, so that it is still found.
    pub fn apply(&self, logits: &mut [f32]) {
        apply_mask(&self.words, logits);
    }

    /// Its bits, the lowest of the first word for token 0.
    pub fn words(&self) -> &[u32] {
        &self.words
    }

    pub(super) fn remove(&mut self, token: u32) {
        if let Some(word) = self.words.get_mut(token as usize / 32) {
            *word &= !(1 << (token % 32));
        }
    }

    fn add(&mut self, token: u32) {
        if let Some(word) = self.words.get_mut(token as usize / 32) {
            *word |= 1 << (token % 32);
        }
    }

    fn is_empty(&self) -> bool {
        self.words.iter().all(|&word| word == 0)
    }
}

/// One answer within a constraint.
pub struct ConstraintState {
    matcher: Matcher,
    numbers: Option<NumberGuard>,
    /// Tokens that may not come although the grammar allows them.
    barred: Arc<[u32]>,
    mask: TokenMask,
}

impl ConstraintState {
    /// The tokens that may come next; at least one.
    pub fn mask(&mut self) -> Result<&TokenMask, ConstraintFailure> {
        let bits = self.matcher.compute_mask().map_err(|e| failure(&e.to_string()))?;
        self.mask.words = bits.into();
        let mask = &mut self.mask;
        self.barred.iter().for_each(|&token| mask.remove(token));
        if let Some(numbers) = &self.numbers {
            let removed = numbers.restrict(mask);
            if mask.is_empty() {
                // The grammar wants a longer number than the guard: it is the one to obey.
                removed.iter().for_each(|&token| mask.add(token));
            }
        }
        if mask.is_empty() {
            return Err(failure("no token can follow"));
        }
        Ok(mask)
    }

    /// What [`Self::mask`] gave last.
    pub fn last_mask(&self) -> &TokenMask {
        &self.mask
    }

    /// Takes note of the token that came. Fails for one that the grammar does not allow.
    pub fn commit(&mut self, token: u32) -> Result<(), ConstraintFailure> {
        self.matcher.consume_token(token).map_err(|e| failure(&e.to_string()))?;
        if let Some(numbers) = &mut self.numbers {
            numbers.commit(token);
        }
        Ok(())
    }

    /// Tokens of the text that must come next whatever is chosen, in their longest spelling; none
    /// where there is a choice.
    ///
    /// A guess of how that text will be spelled: the mask still allows other spellings. A copy looks
    /// ahead, because a long text may be more than the limits of one step allow.
    pub fn ahead(&self) -> Vec<u32> {
        let mut matcher = self.matcher.deep_clone();
        let bytes = matcher.compute_ff_bytes();
        match matcher.tok_env() {
            Ok(env) if !bytes.is_empty() => env.tok_trie().greedy_tokenize(&bytes),
            _ => Vec::new(),
        }
    }

    /// Whether the grammar accepts the answer as it is.
    pub fn accepts(&mut self) -> Result<bool, ConstraintFailure> {
        self.matcher.is_accepting().map_err(|e| failure(&e.to_string()))
    }

    /// Whether the grammar accepts the answer and nothing can follow it.
    pub fn is_complete(&self) -> bool {
        self.matcher.is_stopped() && !self.matcher.is_error()
    }
}

impl Clone for ConstraintState {
    fn clone(&self) -> Self {
        ConstraintState {
            matcher: self.matcher.deep_clone(),
            numbers: self.numbers.clone(),
            barred: Arc::clone(&self.barred),
            mask: self.mask.clone(),
        }
    }
}

impl fmt::Debug for ConstraintState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConstraintState")
            .field("complete", &self.is_complete())
            .finish_non_exhaustive()
    }
}

fn failure(error: &str) -> ConstraintFailure {
    ConstraintFailure(summary(error))
}
