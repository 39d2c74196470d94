//! Parameters of statements, with the types that they have in the database: a statement that is not prepared is sent with its
//! parameters in one go.

use serde_json::Value;
use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

/// A parameter of a statement.
pub(super) trait Parameter: ToSql + Sync {
    /// As it is sent.
    fn as_sql(&self) -> &(dyn ToSql + Sync);
    /// Its type in the database.
    fn of(&self) -> Type;
}

/// What has one type in the database.
pub(super) trait Typed {
    const TYPE: Type;
    /// The type of an array of it.
    const ARRAY: Type;
}

impl<T: Typed + ToSql + Sync> Parameter for T {
    fn as_sql(&self) -> &(dyn ToSql + Sync) {
        self
    }

    fn of(&self) -> Type {
        T::TYPE
    }
}

macro_rules! typed {
    ($($rust:ty => $of:ident, $array:ident;)+) => {
        $(impl Typed for $rust {
            const TYPE: Type = Type::$of;
            const ARRAY: Type = Type::$array;
        })+
    };
}

typed! {
    bool => BOOL, BOOL_ARRAY;
    i16 => INT2, INT2_ARRAY;
    i32 => INT4, INT4_ARRAY;
    i64 => INT8, INT8_ARRAY;
    str => TEXT, TEXT_ARRAY;
    String => TEXT, TEXT_ARRAY;
    Uuid => UUID, UUID_ARRAY;
    [u8] => BYTEA, BYTEA_ARRAY;
    Vec<u8> => BYTEA, BYTEA_ARRAY;
    Value => JSONB, JSONB_ARRAY;
}

impl<T: Typed + ?Sized> Typed for &T {
    const TYPE: Type = T::TYPE;
    const ARRAY: Type = T::ARRAY;
}

impl<T: Typed> Typed for Option<T> {
    const TYPE: Type = T::TYPE;
    const ARRAY: Type = T::ARRAY;
}

/// Arrays of arrays there are none.
impl<T: Typed> Typed for Vec<T> {
    const TYPE: Type = T::ARRAY;
    const ARRAY: Type = Type::UNKNOWN;
}

impl<T: Typed> Typed for [T] {
    const TYPE: Type = T::ARRAY;
    const ARRAY: Type = Type::UNKNOWN;
}
