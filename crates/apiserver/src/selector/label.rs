//! Label selectors: `a=b,c!=d,e in (f,g),h notin (i),j,!k,l>1`.
//!
//! Grammar and error texts are those of Kubernetes. `in` and `notin` are words of the grammar only where an operator
//! may stand.

use std::fmt;

use mainstay_store::Meta;

use super::{MAX_TERMS, bounded, label_key_fault, label_value_fault};

/// A conjunction of requirements on labels.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSelector {
    terms: Vec<Term>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Term {
    key: Box<str>,
    test: Test,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Test {
    Exists,
    Absent,
    /// Sorted.
    In(Vec<Box<str>>),
    /// Sorted; an object without the label matches.
    NotIn(Vec<Box<str>>),
    Above(i64),
    Below(i64),
}

impl LabelSelector {
    /// Parses a selector; the empty one matches everything.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn parse(text: &str) -> Result<Self, String> {
        bounded(text)?;
        let mut parser = Parser { rest: text };
        let mut terms = Vec::new();
        match parser.peek() {
            Token::End => return Ok(Self { terms }),
            Token::Word(_) | Token::Not => {}
            other => return Err(format!("found '{other}', expected: !, identifier, or 'end of string'")),
        }
        loop {
            terms.push(parser.requirement().map_err(|error| format!("unable to parse requirement: {error}"))?);
            if terms.len() > MAX_TERMS {
                return Err(format!("the selector has more than {MAX_TERMS} requirements"));
            }
            match parser.next() {
                Token::End => return Ok(Self { terms }),
                Token::Comma => {}
                other => return Err(format!("found '{other}', expected: ',' or 'end of string'")),
            }
            match parser.peek() {
                Token::Word(_) | Token::Not => {}
                other => return Err(format!("found '{other}', expected: identifier after ','")),
            }
        }
    }

    /// Whether every object matches.
    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }

    /// Whether an object with this meta matches.
    pub fn matches(&self, meta: &Meta) -> bool {
        self.terms.iter().all(|term| {
            let found = meta.labels.binary_search_by(|(key, _)| (**key).cmp(&term.key)).ok();
            term.test.holds(found.and_then(|at| meta.labels.get(at)).map(|(_, value)| &**value))
        })
    }
}

impl Test {
    fn holds(&self, value: Option<&str>) -> bool {
        let among =
            |set: &[Box<str>]| value.is_some_and(|value| set.binary_search_by(|one| (**one).cmp(value)).is_ok());
        let number = || value.and_then(|value| value.parse::<i64>().ok());
        match self {
            Self::Exists => value.is_some(),
            Self::Absent => value.is_none(),
            Self::In(set) => among(set),
            Self::NotIn(set) => !among(set),
            Self::Above(bound) => number().is_some_and(|number| number > *bound),
            Self::Below(bound) => number().is_some_and(|number| number < *bound),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token<'a> {
    End,
    Comma,
    Not,
    Open,
    Close,
    Equal,
    DoubleEqual,
    NotEqual,
    Above,
    Below,
    Word(&'a str),
}

impl fmt::Display for Token<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::End => "",
            Self::Comma => ",",
            Self::Not => "!",
            Self::Open => "(",
            Self::Close => ")",
            Self::Equal => "=",
            Self::DoubleEqual => "==",
            Self::NotEqual => "!=",
            Self::Above => ">",
            Self::Below => "<",
            Self::Word(word) => word,
        })
    }
}

struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn scan(&self) -> (Token<'a>, &'a str) {
        let text = self.rest.trim_start_matches([' ', '\t', '\r', '\n']);
        let special = |c: char| matches!(c, '=' | '!' | '(' | ')' | ',' | '>' | '<');
        let (token, length) = match text.as_bytes() {
            [] => (Token::End, 0),
            [b'=', b'=', ..] => (Token::DoubleEqual, 2),
            [b'!', b'=', ..] => (Token::NotEqual, 2),
            [b'=', ..] => (Token::Equal, 1),
            [b'!', ..] => (Token::Not, 1),
            [b'(', ..] => (Token::Open, 1),
            [b')', ..] => (Token::Close, 1),
            [b',', ..] => (Token::Comma, 1),
            [b'>', ..] => (Token::Above, 1),
            [b'<', ..] => (Token::Below, 1),
            _ => {
                let end = text.find(|c| special(c) || matches!(c, ' ' | '\t' | '\r' | '\n')).unwrap_or(text.len());
                (Token::Word(&text[..end]), end)
            }
        };
        (token, &text[length..])
    }

    fn peek(&self) -> Token<'a> {
        self.scan().0
    }

    fn next(&mut self) -> Token<'a> {
        let (token, rest) = self.scan();
        self.rest = rest;
        token
    }

    fn requirement(&mut self) -> Result<Term, String> {
        let mut token = self.next();
        let absent = token == Token::Not;
        if absent {
            token = self.next();
        }
        let Token::Word(key) = token else { return Err(format!("found '{token}', expected: identifier")) };
        if let Some(fault) = label_key_fault(key) {
            return Err(format!("<nil>: Invalid value: {key:?}: {fault}"));
        }
        let test = match self.peek() {
            _ if absent => Test::Absent,
            Token::End | Token::Comma => Test::Exists,
            _ => self.comparison(key)?,
        };
        Ok(Term { key: key.into(), test })
    }

    fn comparison(&mut self, key: &str) -> Result<Test, String> {
        match self.next() {
            Token::Equal | Token::DoubleEqual => Ok(Test::In(vec![self.value(key)?])),
            Token::NotEqual => Ok(Test::NotIn(vec![self.value(key)?])),
            Token::Word("in") => Ok(Test::In(self.values(key)?)),
            Token::Word("notin") => Ok(Test::NotIn(self.values(key)?)),
            Token::Above => Ok(Test::Above(self.number(key)?)),
            Token::Below => Ok(Test::Below(self.number(key)?)),
            other => Err(format!("found '{other}', expected: in, notin, =, ==, !=, gt, lt")),
        }
    }

    fn value(&mut self, key: &str) -> Result<Box<str>, String> {
        let value = match self.peek() {
            Token::End | Token::Comma => "",
            Token::Word(word) => {
                self.next();
                word
            }
            other => return Err(format!("found '{other}', expected: identifier")),
        };
        checked(key, 0, value)
    }

    fn number(&mut self, key: &str) -> Result<i64, String> {
        let value = self.value(key)?;
        value.parse().map_err(|_| {
            format!(
                "values[0][{key}]: Invalid value: {value:?}: for 'Gt', 'Lt' operators, the value must be an integer"
            )
        })
    }

    /// `(a,b)`; as upstream has it, an empty place between commas is the empty value.
    fn values(&mut self, key: &str) -> Result<Vec<Box<str>>, String> {
        let open = self.next();
        if open != Token::Open {
            return Err(format!("found '{open}' expected: '('"));
        }
        let mut values = Vec::new();
        loop {
            let value = match self.peek() {
                Token::Word(word) => {
                    self.next();
                    word
                }
                Token::Comma | Token::Close => "",
                other => return Err(format!("found '{other}', expected: ',', ')' or identifier")),
            };
            values.push(checked(key, values.len(), value)?);
            if values.len() > MAX_TERMS {
                return Err(format!("more than {MAX_TERMS} values for {key:?}"));
            }
            match self.next() {
                Token::Comma => {}
                Token::Close => break,
                other => return Err(format!("found '{other}', expected: ',', or ')'")),
            }
        }
        values.sort_unstable();
        values.dedup();
        Ok(values)
    }
}

fn checked(key: &str, index: usize, value: &str) -> Result<Box<str>, String> {
    match label_value_fault(value) {
        Some(fault) => Err(format!("values[{index}][{key}]: Invalid value: {value:?}: {fault}")),
        None => Ok(value.into()),
    }
}
