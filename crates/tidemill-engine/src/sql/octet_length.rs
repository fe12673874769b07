//! `octet_length` for BINARY too: DataFusion's own knows text only, and a raw record's value is bytes.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use datafusion::common::{DataFusionError, Result as DfResult};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

#[derive(Debug, PartialEq, Eq, Hash)]
struct OctetLength {
    signature: Signature,
}

/// `octet_length(text or bytes) -> BIGINT`: the number of bytes, NULL for NULL.
pub(super) fn octet_length() -> ScalarUDF {
    ScalarUDF::from(OctetLength {
        signature: Signature::any(1, Volatility::Immutable),
    })
}

impl ScalarUDFImpl for OctetLength {
    fn name(&self) -> &str {
        "octet_length"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> DfResult<DataType> {
        match &arguments[0] {
            DataType::Null
            | DataType::Utf8
            | DataType::LargeUtf8
            | DataType::Utf8View
            | DataType::Binary
            | DataType::LargeBinary
            | DataType::BinaryView => Ok(DataType::Int64),
            other => Err(DataFusionError::Plan(format!(
                "octet_length takes VARCHAR or BINARY, not {other}"
            ))),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let scalar = matches!(args.args[0], ColumnarValue::Scalar(_));
        let array = args.args[0].to_array(if scalar { 1 } else { args.number_rows })?;
        let lengths = lengths(&array)?;
        if scalar {
            return Ok(ColumnarValue::Scalar(datafusion::common::ScalarValue::try_from_array(
                &lengths, 0,
            )?));
        }
        Ok(ColumnarValue::Array(lengths))
    }
}

fn lengths(array: &ArrayRef) -> DfResult<ArrayRef> {
    let lengths: Vec<i64> = match array.data_type() {
        DataType::BinaryView => array.as_binary_view().lengths().map(i64::from).collect(),
        DataType::Utf8View => array.as_string_view().lengths().map(i64::from).collect(),
        DataType::Null => vec![0; array.len()],
        _ => return lengths(&cast(array, &DataType::BinaryView)?),
    };
    Ok(Arc::new(Int64Array::new(lengths.into(), array.logical_nulls())))
}

#[cfg(test)]
mod tests {
    use arrow::array::{BinaryViewArray, StringArray};

    use super::*;

    #[test]
    fn bytes_are_counted_and_nulls_stay() {
        let long = [7_u8; 300];
        let bytes: ArrayRef = Arc::new(BinaryViewArray::from_iter([Some(&long[..]), None, Some(b"")]));
        let text: ArrayRef = Arc::new(StringArray::from(vec![Some("Å"), None, Some("")]));
        let counted = |array: &ArrayRef| {
            lengths(array)
                .expect("counts")
                .as_primitive::<arrow::datatypes::Int64Type>()
                .clone()
        };
        assert_eq!(counted(&bytes), Int64Array::from(vec![Some(300), None, Some(0)]));
        assert_eq!(counted(&text), Int64Array::from(vec![Some(2), None, Some(0)]));
    }
}
