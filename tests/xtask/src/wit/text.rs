//! Types and functions as WIT writes them.

use wit_parser::{Function, Handle, Resolve, Type, TypeDefKind, TypeId};

/// A type where it is used.
pub fn of_type(resolve: &Resolve, ty: &Type) -> String {
    match ty {
        Type::Bool => "bool".into(),
        Type::U8 => "u8".into(),
        Type::U16 => "u16".into(),
        Type::U32 => "u32".into(),
        Type::U64 => "u64".into(),
        Type::S8 => "s8".into(),
        Type::S16 => "s16".into(),
        Type::S32 => "s32".into(),
        Type::S64 => "s64".into(),
        Type::F32 => "f32".into(),
        Type::F64 => "f64".into(),
        Type::Char => "char".into(),
        Type::String => "string".into(),
        Type::ErrorContext => "error-context".into(),
        Type::Id(id) => match &resolve.types[*id].name {
            Some(name) => name.clone(),
            None => of_kind(resolve, *id),
        },
    }
}

/// What a type is made of, docs left out; a record's fields and the like in their order.
pub fn of_kind(resolve: &Resolve, id: TypeId) -> String {
    let ty = |ty: &Type| of_type(resolve, ty);
    let or_none = |ty: &Option<Type>| ty.as_ref().map_or_else(|| "_".to_owned(), |ty| of_type(resolve, ty));
    let list = |parts: Vec<String>| parts.join(", ");
    match &resolve.types[id].kind {
        TypeDefKind::Record(record) => {
            let fields = record.fields.iter().map(|field| format!("{}: {}", field.name, ty(&field.ty)));
            format!("record {{ {} }}", list(fields.collect()))
        }
        TypeDefKind::Flags(flags) => {
            format!("flags {{ {} }}", list(flags.flags.iter().map(|flag| flag.name.clone()).collect()))
        }
        TypeDefKind::Enum(cases) => {
            format!("enum {{ {} }}", list(cases.cases.iter().map(|case| case.name.clone()).collect()))
        }
        TypeDefKind::Variant(variant) => {
            let cases = variant.cases.iter().map(|case| match &case.ty {
                Some(payload) => format!("{}({})", case.name, ty(payload)),
                None => case.name.clone(),
            });
            format!("variant {{ {} }}", list(cases.collect()))
        }
        TypeDefKind::Tuple(tuple) => format!("tuple<{}>", list(tuple.types.iter().map(ty).collect())),
        TypeDefKind::Option(some) => format!("option<{}>", ty(some)),
        TypeDefKind::Result(result) => match (&result.ok, &result.err) {
            (None, None) => "result".into(),
            (ok, None) => format!("result<{}>", or_none(ok)),
            (ok, err) => format!("result<{}, {}>", or_none(ok), or_none(err)),
        },
        TypeDefKind::List(item) => format!("list<{}>", ty(item)),
        TypeDefKind::FixedLengthList(item, length) => format!("list<{}, {length}>", ty(item)),
        TypeDefKind::Map(key, value) => format!("map<{}, {}>", ty(key), ty(value)),
        TypeDefKind::Handle(Handle::Own(resource)) => ty(&Type::Id(*resource)),
        TypeDefKind::Handle(Handle::Borrow(resource)) => format!("borrow<{}>", ty(&Type::Id(*resource))),
        TypeDefKind::Type(other) => ty(other),
        TypeDefKind::Future(item) => format!("future<{}>", or_none(item)),
        TypeDefKind::Stream(item) => format!("stream<{}>", or_none(item)),
        kind @ (TypeDefKind::Resource | TypeDefKind::Unknown) => kind.as_str().into(),
    }
}

pub fn of_function(resolve: &Resolve, function: &Function) -> String {
    let parameters = function
        .params
        .iter()
        .map(|parameter| format!("{}: {}", parameter.name, of_type(resolve, &parameter.ty)));
    let parameters = parameters.collect::<Vec<_>>().join(", ");
    let is_async = if function.kind.is_async() { "async " } else { "" };
    match &function.result {
        Some(result) => format!("{is_async}func({parameters}) -> {}", of_type(resolve, result)),
        None => format!("{is_async}func({parameters})"),
    }
}
