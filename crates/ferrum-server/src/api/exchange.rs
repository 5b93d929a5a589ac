//! From a request to its answers under way, and from there to JSON or events: what the routes for
//! conversations share.

use std::sync::Arc;

use axum::Json;
use axum::response::{IntoResponse, Response};
use ferrum_engine::Usage;
use serde_json::Value;

use super::blocks::{Blocks, Change};
use super::conversation::{Conversation, Parser, Prepared};
use crate::App;
use crate::answer::{End, Piece, Running};
use crate::auth::Tenant;
use crate::body::JsonBody;
use crate::error::{ApiError, ApiResult};
use crate::model::Model;
use crate::sse::{self, Format};

/// A request of whatever API.
pub struct Ask {
    /// Whom it is put to.
    pub app: Arc<App>,
    /// Who asks.
    pub tenant: Tenant,
    /// It as it came: let go once the engine's requests are made of it.
    pub body: JsonBody,
    /// The model that it names.
    pub model: Option<String>,
    /// Whether the answer comes piece by piece.
    pub stream: bool,
    /// Answers to it, at most.
    pub limit: usize,
}

/// Answers under way.
pub struct Exchange {
    /// What comes.
    pub running: Running,
    /// Take the answers apart, one for each choice.
    pub parsers: Vec<Parser>,
    /// Whose answers.
    pub model: Arc<Model>,
    /// The name of the model or adapter that was asked.
    pub name: String,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
}

/// Puts the request that `conversation` makes for its model to the engine.
pub async fn start(
    ask: Ask,
    conversation: impl FnOnce(&Model) -> ApiResult<Conversation> + Send + 'static,
) -> ApiResult<Exchange> {
    let Ask { app, tenant, mut body, model, stream, limit } = ask;
    let lease = app.lease(model.as_deref(), &tenant, &mut body).await?;
    let model = lease.model().clone();
    let prepared = app
        .blocking({
            let (model, tenant) = (model.clone(), tenant.clone());
            move || {
                let _until_done = body;
                conversation(&model)?.prepare(&model, &tenant, limit)
            }
        })
        .await?;
    let name = lease.name().to_string();
    let parsers = prepared.parsers(&model, stream);
    let Prepared { requests, prompt_tokens, .. } = prepared;
    let n = requests.len();
    let answers = model.service.submit(requests, lease, &tenant)?;
    let running = Running::accepted(answers, 1, n).await?;
    Ok(Exchange { running, parsers, model, name, prompt_tokens })
}

/// One answer as blocks, while it grows.
pub struct BlockAnswer {
    parser: Parser,
    /// What has come.
    pub blocks: Blocks,
    /// How it ended.
    pub end: Option<End>,
}

impl BlockAnswer {
    /// The answer that the last of `parsers` takes apart.
    pub fn new(parsers: &mut Vec<Parser>) -> ApiResult<Self> {
        let parser = parsers.pop().ok_or_else(|| ApiError::internal("a request for no answer"))?;
        Ok(BlockAnswer { parser, blocks: Blocks::default(), end: None })
    }

    /// Takes the next piece; tells `each` of every change of the blocks, after it was made.
    pub fn push(&mut self, piece: Piece, each: &mut dyn FnMut(&Blocks, Change)) {
        for delta in self.parser.push(&piece.text, piece.end.is_some()) {
            self.blocks.push(delta, each);
        }
        if piece.end.is_some() {
            self.blocks.close(each);
            self.end = piece.end;
        }
    }
}

/// An API whose answers are lists of blocks.
pub trait BlockFormat: Format {
    /// The answer that is written.
    fn answer(&mut self) -> &mut BlockAnswer;

    /// The answer as a whole, once it has ended.
    fn whole(&mut self, usage: &Usage) -> Value;
}

/// The response to a request for the answer that `begin` gives: a stream, or the whole answer once it
/// has ended.
pub async fn respond<F: BlockFormat>(
    app: &App,
    begin: impl Future<Output = ApiResult<(Running, F)>> + Send + 'static,
    stream: bool,
) -> ApiResult<Response> {
    if stream {
        return sse::response(begin, app.limits.keep_alive).await;
    }
    let (mut running, mut format) = begin.await?;
    while let Some(piece) = running.next().await? {
        format.answer().push(piece, &mut |_, _| {});
    }
    Ok(Json(format.whole(&running.usage())).into_response())
}
