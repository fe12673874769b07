//! From the values of a row to its folder, `column=value/…`, as Hive, Spark and DataFusion read it.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Schema, SchemaRef};
use arrow::row::{RowConverter, SortField};
use tidemill_engine::error::{Error, Kind, Result};

/// What stands for NULL. Hive and Spark use it for the empty text too: `column=` is a folder that they can't read.
const NULL: &str = "__HIVE_DEFAULT_PARTITION__";
/// What file systems allow in one name.
const NAME_BYTES_MAX: usize = 255;
/// Folders that one batch may write to. Each is a file, two syncs and a line in the manifest at least.
const FOLDERS_MAX: usize = 100_000;

/// Where the columns of one schema go: into the folder's name or into the file.
#[derive(Debug)]
pub(super) struct Layout {
    folder_columns: Vec<usize>,
    file_columns: Vec<usize>,
    file_schema: SchemaRef,
}

impl Layout {
    /// # Errors
    /// A column that is missing, whose values can't name folders, or that leaves no other for the files.
    pub(super) fn of(schema: &Schema, partition_by: &[String]) -> Result<Self, String> {
        let mut folder_columns = Vec::new();
        for name in partition_by {
            let Ok(at) = schema.index_of(name) else {
                let known: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
                return Err(format!(
                    "partition_by names column {name}, which the query doesn't give; it gives {}",
                    known.join(", ")
                ));
            };
            let kind = schema.field(at).data_type();
            if !can_name_a_folder(kind) {
                return Err(format!(
                    "partition_by names column {name} of type {kind}, whose values can't name folders; texts, whole numbers, \
                     decimals, booleans, dates and timestamps can. Cast it in the query"
                ));
            }
            folder_columns.push(at);
        }
        let file_columns: Vec<usize> = (0..schema.fields().len())
            .filter(|at| !folder_columns.contains(at))
            .collect();
        if file_columns.is_empty() {
            return Err("partition_by names every column, which leaves none for the files; leave one out".to_owned());
        }
        let projected = schema.project(&file_columns).map_err(|error| error.to_string())?;
        Ok(Self {
            folder_columns,
            file_columns,
            file_schema: Arc::new(projected),
        })
    }

    /// The columns of the data files.
    pub(super) fn file_schema(&self) -> &SchemaRef {
        &self.file_schema
    }

    /// Only the columns of the data files.
    pub(super) fn for_files(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        rows.project(&self.file_columns).map_err(unexpected)
    }
}

/// Floats are left out, since 0.1 + 0.2 makes a folder of its own, and so is what has no one text.
fn can_name_a_folder(kind: &DataType) -> bool {
    match kind {
        DataType::Dictionary(_, values) => can_name_a_folder(values),
        DataType::Boolean
        | DataType::Utf8
        | DataType::LargeUtf8
        | DataType::Utf8View
        | DataType::Date32
        | DataType::Timestamp(..)
        | DataType::Decimal32(..)
        | DataType::Decimal64(..)
        | DataType::Decimal128(..)
        | DataType::Decimal256(..) => true,
        other => other.is_integer(),
    }
}

/// The folders of one batch by number, in the order in which their first rows came.
#[derive(Debug)]
pub(super) struct Folders {
    converter: RowConverter,
    /// By the values, in the form that compares as bytes.
    by_values: HashMap<Box<[u8]>, usize>,
    /// By name: NULL and the empty text share a folder.
    by_name: HashMap<String, usize>,
    names: Vec<String>,
}

impl Folders {
    pub(super) fn new(schema: &Schema, layout: &Layout) -> Result<Self> {
        let fields = layout
            .folder_columns
            .iter()
            .map(|at| SortField::new(schema.field(*at).data_type().clone()));
        Ok(Self {
            converter: RowConverter::new(fields.collect()).map_err(unexpected)?,
            by_values: HashMap::new(),
            by_name: HashMap::new(),
            names: Vec::new(),
        })
    }

    /// The folder with this number, without a slash at its end.
    pub(super) fn name(&self, folder: usize) -> &str {
        &self.names[folder]
    }

    /// The folder of each row.
    ///
    /// # Errors
    /// `Data` where a value is too long for a name, or there are too many.
    pub(super) fn of(&mut self, rows: &RecordBatch, layout: &Layout) -> Result<Vec<usize>> {
        let column = |at: &usize| Arc::clone(rows.column(*at));
        let columns: Vec<ArrayRef> = layout.folder_columns.iter().map(column).collect();
        let values = self.converter.convert_columns(&columns).map_err(unexpected)?;
        let mut of_rows = Vec::with_capacity(rows.num_rows());
        for (row, values) in values.iter().enumerate() {
            let folder = match self.by_values.get(values.as_ref()) {
                Some(folder) => *folder,
                None => {
                    let folder = self.numbered(name_of(rows, layout, row)?)?;
                    self.by_values.insert(values.as_ref().into(), folder);
                    folder
                }
            };
            of_rows.push(folder);
        }
        Ok(of_rows)
    }

    fn numbered(&mut self, name: String) -> Result<usize> {
        if let Some(folder) = self.by_name.get(&name) {
            return Ok(*folder);
        }
        if self.names.len() == FOLDERS_MAX {
            let text = format!(
                "one batch has rows for more than {FOLDERS_MAX} folders; partition_by wants coarser values, or batches must \
                 be smaller"
            );
            return Err(Error::new(Kind::Data, text));
        }
        self.names.push(name.clone());
        self.by_name.insert(name, self.names.len() - 1);
        Ok(self.names.len() - 1)
    }
}

fn name_of(rows: &RecordBatch, layout: &Layout, row: usize) -> Result<String> {
    let mut path = String::new();
    for at in &layout.folder_columns {
        let schema = rows.schema_ref();
        let column = schema.field(*at).name();
        let one = cast(&rows.column(*at).slice(row, 1), &DataType::Utf8).map_err(unexpected)?;
        let one = one.as_string::<i32>();
        let value = if one.is_null(0) { "" } else { one.value(0) };
        let mut name = escaped(column);
        name.push('=');
        name.push_str(&if value.is_empty() {
            NULL.to_owned()
        } else {
            escaped(value)
        });
        if name.len() > NAME_BYTES_MAX {
            let text = format!(
                "partition_by: a value of column {column} makes a folder name of {} bytes, file systems allow \
                 {NAME_BYTES_MAX}: {}…. Shorten it in the query",
                name.len(),
                name.chars().take(60).collect::<String>()
            );
            return Err(Error::new(Kind::Data, text));
        }
        if !path.is_empty() {
            path.push('/');
        }
        path.push_str(&name);
    }
    Ok(path)
}

/// Hive's escapes. Only ASCII is escaped: Hive and Spark undo `%C3%A9` byte by byte, to two letters.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_ascii_control() || "\"#%'*/:=?\\{[]^".contains(letter) {
            // Writing to a String can't fail.
            let _written = write!(escaped, "%{:02X}", letter as u32);
        } else {
            escaped.push(letter);
        }
    }
    escaped
}

fn unexpected(error: arrow::error::ArrowError) -> Error {
    Error::with_source(Kind::Bug, "partition_by", error)
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        BooleanArray, Date32Array, Decimal128Array, Int64Array, StringArray, StringViewArray,
        TimestampMillisecondArray, new_empty_array,
    };
    use arrow::datatypes::Field;

    use super::*;

    fn rows(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true)))
            .unwrap()
    }

    fn folders_of(rows: &RecordBatch, partition_by: &[&str]) -> Result<Vec<String>> {
        let partition_by: Vec<String> = partition_by.iter().map(|name| (*name).to_owned()).collect();
        let layout = Layout::of(rows.schema_ref(), &partition_by).unwrap();
        let mut folders = Folders::new(rows.schema_ref(), &layout)?;
        let of_rows = folders.of(rows, &layout)?;
        Ok(of_rows.iter().map(|folder| folders.name(*folder).to_owned()).collect())
    }

    #[test]
    fn values_are_escaped_as_hive_does() {
        let values = ["a/b=c%", "DE", "", "..", "it's: {1}", "zwölf Äpfel", "a\nb\0"];
        let mut column: Vec<Option<&str>> = values.into_iter().map(Some).collect();
        column.push(None);
        let id = Int64Array::from_iter_values(0..8);
        let rows = rows(vec![
            ("of what", Arc::new(StringViewArray::from(column))),
            ("id", Arc::new(id)),
        ]);
        assert_eq!(
            folders_of(&rows, &["of what"]).unwrap(),
            [
                "of what=a%2Fb%3Dc%25",
                "of what=DE",
                "of what=__HIVE_DEFAULT_PARTITION__",
                "of what=..",
                "of what=it%27s%3A %7B1}",
                "of what=zwölf Äpfel",
                "of what=a%0Ab%00",
                "of what=__HIVE_DEFAULT_PARTITION__",
            ]
        );
    }

    #[test]
    fn each_type_has_the_text_that_others_read() {
        let rows = rows(vec![
            ("id", Arc::new(Int64Array::from(vec![-7]))),
            ("on", Arc::new(BooleanArray::from(vec![true]))),
            ("day", Arc::new(Date32Array::from(vec![20_000]))),
            ("at", Arc::new(TimestampMillisecondArray::from(vec![1_700_000_000_000]))),
            (
                "price",
                Arc::new(
                    Decimal128Array::from(vec![150])
                        .with_precision_and_scale(10, 2)
                        .unwrap(),
                ),
            ),
            ("rest", Arc::new(StringArray::from(vec!["x"]))),
        ]);
        assert_eq!(
            folders_of(&rows, &["price", "on", "day", "at", "id"]).unwrap(),
            ["price=1.50/on=true/day=2024-10-04/at=2023-11-14T22%3A13%3A20/id=-7"]
        );
    }

    #[test]
    fn what_no_folder_can_be_named_by_is_refused() {
        let nested = DataType::Struct(vec![Field::new("x", DataType::Int64, true)].into());
        let schema = Schema::new(vec![
            Field::new("day", DataType::Date32, true),
            Field::new("ratio", DataType::Float64, true),
            Field::new("who", nested, true),
            Field::new("raw", DataType::Binary, true),
        ]);
        let refused = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            Layout::of(&schema, &names).unwrap_err()
        };
        assert!(refused(&["day", "ratio"]).contains("column ratio of type Float64"));
        assert!(refused(&["who"]).contains("column who of type Struct"));
        assert!(refused(&["raw"]).contains("column raw of type Binary"));
        let unknown = refused(&["Day"]);
        assert!(
            unknown.contains("column Day") && unknown.contains("day, ratio"),
            "{unknown}"
        );
        let only = Schema::new(vec![Field::new("day", DataType::Date32, true)]);
        let all = Layout::of(&only, &["day".to_owned()]).unwrap_err();
        assert!(all.contains("every column"), "{all}");
    }

    #[test]
    fn too_long_a_name_and_too_many_are_errors_of_the_data() {
        let long = "x".repeat(250);
        let fits = rows(vec![
            ("c", Arc::new(StringArray::from(vec![long.as_str()]))),
            ("id", Arc::new(Int64Array::from(vec![1]))),
        ]);
        assert_eq!(folders_of(&fits, &["c"]).unwrap()[0].len(), 252);
        let long = "/".repeat(85);
        let beyond = rows(vec![
            ("c", Arc::new(StringArray::from(vec![long.as_str()]))),
            ("id", Arc::new(Int64Array::from(vec![1]))),
        ]);
        let error = folders_of(&beyond, &["c"]).unwrap_err();
        assert_eq!(error.kind(), Kind::Data);
        assert!(
            error.chain().contains("column c") && error.chain().contains("257 bytes"),
            "{}",
            error.chain()
        );
        let many = i64::try_from(FOLDERS_MAX).unwrap() + 1;
        let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..many));
        let many = rows(vec![("id", Arc::clone(&ids)), ("n", ids)]);
        assert_eq!(folders_of(&many, &["id"]).unwrap_err().kind(), Kind::Data);
        let none = rows(vec![
            ("id", new_empty_array(&DataType::Int64)),
            ("n", new_empty_array(&DataType::Int64)),
        ]);
        assert!(folders_of(&none, &["id"]).unwrap().is_empty());
    }
}
