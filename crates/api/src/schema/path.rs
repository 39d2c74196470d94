//! Where in an object a walk is: a chain on the stack, turned into text only when something is wrong.

use std::fmt;

/// A place in an object, as a link to its parent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    step: Step<'a>,
}

#[derive(Debug, Clone, Copy)]
enum Step<'a> {
    Root,
    Field(&'a str),
    Index(usize),
}

impl Path<'static> {
    pub(super) const ROOT: Self = Self { parent: None, step: Step::Root };
}

impl<'a> Path<'a> {
    pub(super) const fn field(&'a self, name: &'a str) -> Self {
        Self { parent: Some(self), step: Step::Field(name) }
    }

    pub(super) const fn index(&'a self, at: usize) -> Self {
        Self { parent: Some(self), step: Step::Index(at) }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        let below_root = self.parent.is_some_and(|parent| matches!(parent.step, Step::Root));
        match self.step {
            Step::Root => Ok(()),
            Step::Index(at) => write!(f, "[{at}]"),
            // A key such as `example.com/a` would not read as one step after a dot.
            Step::Field(name) if name.contains(['.', '/', '[', ' ']) => write!(f, "[{name}]"),
            Step::Field(name) if below_root => f.write_str(name),
            Step::Field(name) => write!(f, ".{name}"),
        }
    }
}
