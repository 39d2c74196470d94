//! What runs the controllers, against an API in memory and in virtual time.

#[cfg(test)]
mod driver;
#[cfg(test)]
mod garbage;
#[cfg(test)]
mod session;
#[cfg(test)]
mod support;
