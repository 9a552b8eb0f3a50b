//! A layer of the API that lets a request through, changed or not, or answers it with a status.

use std::task::{Context, Poll};

use futures::future::{Either, Ready, ready};
use tonic::{Status, body::Body, codegen::http};
use tower::{Layer, Service};

/// A request on its way to its service.
pub(super) type Request = http::Request<Body>;
type Response = http::Response<Body>;

/// The layer; the function decides.
#[derive(Clone)]
pub(super) struct Check<F>(pub(super) F);

/// What is behind it.
#[derive(Clone)]
pub(super) struct Checked<F, S> {
    check: F,
    inner: S,
}

impl<F: Clone, S> Layer<S> for Check<F> {
    type Service = Checked<F, S>;

    fn layer(&self, inner: S) -> Checked<F, S> {
        Checked { check: self.0.clone(), inner }
    }
}

impl<F, S> Service<Request> for Checked<F, S>
where
    F: Fn(Request) -> Result<Request, Status>,
    S: Service<Request, Response = Response>,
{
    type Response = Response;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<Response, S::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        match (self.check)(request) {
            Ok(request) => Either::Left(self.inner.call(request)),
            Err(status) => Either::Right(ready(Ok(status.into_http()))),
        }
    }
}
