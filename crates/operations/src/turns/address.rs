//! Where Redis is: a `redis://` or `rediss://` URL.

use std::fmt;

use redis::{Client, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo};

/// A Redis. Its `Debug` and `Display` show no password.
#[derive(Clone)]
pub struct Address {
    info: ConnectionInfo,
}

/// An address that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// Not a URL of a Redis.
    #[error("not a Redis URL, expected redis://HOST[:PORT][/DATABASE], or rediss:// for TLS: {0}")]
    Malformed(String),
}

impl Address {
    /// Reads a URL, such as `redis://queue.example.org` or `rediss://default@queue.example.org:6380/2`. With `rediss` the
    /// server's certificate is verified, by the system's authorities.
    ///
    /// # Errors
    /// [`AddressError`], which never tells the password.
    pub fn parse(url: &str) -> Result<Self, AddressError> {
        let malformed = |why: &str| AddressError::Malformed(why.to_owned());
        let Some((scheme, rest)) = url.split_once("://") else { return Err(malformed("there is no scheme in it")) };
        if !matches!(scheme, "redis" | "rediss" | "unix" | "redis+unix") {
            return Err(malformed(&format!("the scheme {scheme} is not known")));
        }
        if rest.contains('#') {
            return Err(malformed("a fragment would switch off the verification of certificates"));
        }
        let info = url.into_connection_info().map_err(|error| AddressError::Malformed(error.category().to_owned()))?;
        // Servers before 7.2 do not know the command by which the library names itself.
        let settings = info.redis_settings().clone().set_skip_set_lib_name();
        Ok(Self { info: info.set_redis_settings(settings) })
    }

    /// Whether a password is in it.
    pub fn has_password(&self) -> bool {
        self.info.redis_settings().password().is_some()
    }

    /// The same, with a password.
    #[must_use]
    pub fn with_password(self, password: &str) -> Self {
        let settings: RedisConnectionInfo = self.info.redis_settings().clone().set_password(password);
        Self { info: self.info.set_redis_settings(settings) }
    }

    pub(super) fn client(&self) -> Result<Client, redis::RedisError> {
        Client::open(self.info.clone())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.info.addr(), self.info.redis_settings().db())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_read_and_its_password_is_not_shown() {
        let address = Address::parse("redis://default:s3cr3t@127.0.0.1:6380/2").unwrap();
        assert!(address.has_password());
        assert_eq!(address.to_string(), "127.0.0.1:6380/2");
        assert_eq!(format!("{address:?}"), "127.0.0.1:6380/2");
        assert!(!Address::parse("rediss://queue.example.org").unwrap().has_password());
        assert!(Address::parse("redis://q").unwrap().with_password("p").has_password());
    }

    #[test]
    fn what_is_no_url_of_a_redis_is_refused_without_its_password() {
        for wrong in
            ["", "queue:6379", "http://s3cr3t@q", "redis://:s3cr3t@", "redis://:s3cr3t@q/x", "rediss://q#insecure"]
        {
            let refused = Address::parse(wrong).unwrap_err().to_string();
            assert!(!refused.contains("s3cr3t"), "{refused}");
        }
    }
}
