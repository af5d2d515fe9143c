//! Who may ask what: two bearer tokens, kept beside the database, compared in constant time.
//!
//! The worker's token opens everything. The viewer's opens what only reads: pages, images, the live feed. A browser sends
//! the viewer's token once, as `?token=…`, and from then on a cookie. Cookies open nothing that changes anything, so that no
//! other site can make a browser do it.

use super::refusal::Refused;
use super::secret::{self, SecretError};
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, COOKIE, LOCATION, REFERRER_POLICY, SET_COOKIE};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use protocol::error::RefusalCode;
use sha2::{Digest, Sha256};
use std::path::Path;
use std::sync::Arc;

/// What a request must carry: `authorization: Bearer TOKEN`.
#[derive(Clone)]
pub struct Token(Arc<str>);

/// The tokens of one coordinator.
#[derive(Debug, Clone)]
pub struct Tokens {
    pub worker: Token,
    pub viewer: Token,
    /// Name of the cookie. Browsers send the cookies of all ports of a host, such as the near ends of two tunnels: each
    /// coordinator has a name of its own.
    cookie: Arc<str>,
}

/// What a request may do, by what it carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Worker,
    Viewer,
}

impl Token {
    /// The token in the file at `path`, made there if there is none: 64 hexadecimal digits.
    pub fn at(path: &Path) -> Result<Self, SecretError> {
        let text = secret::at(path, || hex(&rand::random::<[u8; 32]>()) + "\n")?;
        let token = text.trim();
        if token.len() < 32 || !token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)) {
            let expected = "a token of at least 32 letters and digits";
            return Err(SecretError::Garbled { path: path.to_owned(), expected });
        }
        Ok(Self(token.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Compares digests, so that the time taken says nothing about the token.
    fn matches(&self, other: &str) -> bool {
        let (ours, theirs) = (Sha256::digest(self.0.as_bytes()), Sha256::digest(other.as_bytes()));
        ours.iter().zip(&theirs).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Tokens {
    pub fn new(worker: Token, viewer: Token) -> Self {
        let mark = hex(&Sha256::digest(viewer.0.as_bytes())[..4]);
        Self { worker, viewer, cookie: format!("braindive-{mark}").into() }
    }

    fn role(&self, given: &str) -> Option<Role> {
        let (worker, viewer) = (self.worker.matches(given), self.viewer.matches(given));
        if worker { Some(Role::Worker) } else { viewer.then_some(Role::Viewer) }
    }

    /// What the request's cookie opens.
    fn role_of_cookie(&self, headers: &HeaderMap) -> Option<Role> {
        let pairs =
            headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok()).flat_map(|all| all.split(';'));
        let mut ours = pairs.filter_map(|pair| pair.trim().split_once('=')).filter(|(name, _)| *name == &*self.cookie);
        ours.find_map(|(_, value)| self.role(value))
    }

    /// Lets a browser in that came with a token in its address: a cookie, and the address without the token, which then
    /// stands neither on the screen nor in a bookmark.
    fn enter(&self, uri: &Uri) -> Response {
        let rest: Vec<&str> = query(uri).filter(|pair| !pair.starts_with("token=")).collect();
        // What begins with two slashes would lead to another host.
        let path = uri.path().trim_start_matches(['/', '\\']);
        let question = if rest.is_empty() { "" } else { "?" };
        let headers = [
            (LOCATION, format!("/{path}{question}{}", rest.join("&"))),
            (SET_COOKIE, format!("{}={}; Path=/; HttpOnly; SameSite=Strict", self.cookie, self.viewer.as_str())),
            (REFERRER_POLICY, "no-referrer".to_owned()),
            (CACHE_CONTROL, "no-store".to_owned()),
        ];
        (StatusCode::SEE_OTHER, headers).into_response()
    }
}

/// Lets a request through that carries the worker's token.
pub async fn worker(State(tokens): State<Tokens>, request: Request, next: Next) -> Result<Response, Refused> {
    match bearer(request.headers()).map(|given| tokens.role(given)) {
        Some(Some(Role::Worker)) => Ok(next.run(request).await),
        Some(Some(Role::Viewer)) => {
            let message = "this is the viewer's token, which only reads: the worker's is in the endpoint file that \
                           `coordinator serve` wrote";
            Err(Refused::new(StatusCode::FORBIDDEN, RefusalCode::Forbidden, message))
        }
        found => {
            let found =
                if found.is_some() { "the token is not this coordinator's" } else { "there is no bearer token" };
            let message = format!("{found}: read it from the endpoint file that `coordinator serve` wrote");
            Err(Refused::new(StatusCode::UNAUTHORIZED, RefusalCode::Unauthorized, message))
        }
    }
}

/// Lets a request through that carries either token, as a bearer or as a cookie, and sends one on that has it in its address.
pub async fn viewer(State(tokens): State<Tokens>, request: Request, next: Next) -> Result<Response, Refused> {
    if query(request.uri()).any(|pair| pair.strip_prefix("token=").is_some_and(|given| tokens.role(given).is_some())) {
        return Ok(tokens.enter(request.uri()));
    }
    let role = match bearer(request.headers()) {
        Some(given) => tokens.role(given),
        None => tokens.role_of_cookie(request.headers()),
    };
    if role.is_some() {
        return Ok(next.run(request).await);
    }
    let message = "pages and images need a token: open the link that `coordinator serve` prints";
    Err(Refused::new(StatusCode::UNAUTHORIZED, RefusalCode::Unauthorized, message))
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers.get(AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ").map(str::trim)
}

/// The `name=value` pairs of an address.
fn query(uri: &Uri) -> impl Iterator<Item = &str> {
    uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens() -> Tokens {
        Tokens::new(Token("w".repeat(64).into()), Token("v".repeat(64).into()))
    }

    #[test]
    fn a_token_opens_its_role_and_only_the_whole_token_does() {
        let tokens = tokens();
        assert_eq!(tokens.role(&"w".repeat(64)), Some(Role::Worker));
        assert_eq!(tokens.role(&"v".repeat(64)), Some(Role::Viewer));
        for wrong in ["", &"w".repeat(63), &"w".repeat(65), "wv"] {
            assert_eq!(tokens.role(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_token_file_that_holds_something_else_is_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("db.token");
        let token = Token::at(&path).expect("a new token");
        assert_eq!(Token::at(&path).expect("the same token").as_str(), token.as_str());
        for text in [String::new(), "short".to_owned(), "buy milk; ".repeat(10)] {
            std::fs::write(&path, &text).expect("the file can be written");
            assert!(matches!(Token::at(&path), Err(SecretError::Garbled { .. })), "{text}");
        }
    }

    #[test]
    fn an_address_with_a_token_leads_to_the_same_page_without_it_and_never_elsewhere() {
        let tokens = tokens();
        for (from, to) in [
            ("/?token=x", "/"),
            ("/jobs/1?a=b&token=x&c=d", "/jobs/1?a=b&c=d"),
            ("//evil.example/?token=x", "/evil.example/"),
            ("/\\evil.example/?token=x", "/evil.example/"),
        ] {
            let response = tokens.enter(&from.parse().expect("an address"));
            assert_eq!(response.headers()[LOCATION], to);
            let cookie = response.headers()[SET_COOKIE].to_str().expect("a cookie");
            assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
            assert!(!cookie.contains(tokens.worker.as_str()));
        }
    }

    #[test]
    fn a_cookie_of_another_coordinator_on_the_same_host_is_not_mistaken() {
        let tokens = tokens();
        let role = |cookie: String| {
            let headers = HeaderMap::from_iter([(COOKIE, cookie.parse().expect("a header"))]);
            tokens.role_of_cookie(&headers)
        };
        let value = tokens.viewer.as_str();
        assert_eq!(role(format!("other=1; {}={value}", tokens.cookie)), Some(Role::Viewer));
        assert_eq!(role(format!("{}=x; {}={value}", tokens.cookie, tokens.cookie)), Some(Role::Viewer));
        assert_eq!(role(format!("braindive-00000000={value}")), None);
        assert_eq!(role(format!("{}={value}x", tokens.cookie)), None);
    }
}
