//! Data sets of problems: `math500`, `gsm8k`, or any `.jsonl` or `.parquet` file, and the choice of a range of them.
//!
//! A problem's index is its 0-based place in the data set, whatever range is chosen, so that results keep their names.

use crate::error::{DataError, Result};
use crate::files;
use crate::hub::{DownloadProgress, Hub, Repo, Snapshot};
use crate::run::short_sha256;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use serde_json::Value;
use std::path::{Path, PathBuf};
use tpv_core::quiet::quietly;

/// One problem of a data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Its 0-based place in the data set.
    pub index: usize,
    /// The problem as the data set words it.
    pub text: String,
    /// The gold answer, if the data set has one.
    pub answer: Option<String>,
}

/// Which fields of a record hold the problem and its answer; without a name the usual ones are tried.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fields {
    /// Field of the problem; else `problem`, `question` or `prompt`.
    pub problem: Option<String>,
    /// Field of the answer; else `answer`, where there is one.
    pub answer: Option<String>,
}

/// Where problems come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DatasetSpec {
    /// HuggingFaceH4/MATH-500, split test.
    Math500,
    /// openai/gsm8k, config main, split train.
    Gsm8k,
    /// A `.jsonl` or `.parquet` file.
    File(PathBuf),
}

impl DatasetSpec {
    /// Understands `math500`, `gsm8k`, or a path that ends in `.jsonl` or `.parquet`.
    pub fn parse(text: &str) -> Result<Self> {
        match text {
            "math500" => Ok(Self::Math500),
            "gsm8k" => Ok(Self::Gsm8k),
            path if FileKind::of(Path::new(path)).is_some() => Ok(Self::File(path.into())),
            other => Err(DataError::argument(
                format!("unknown data set \"{other}\""),
                "use thinker, math500, gsm8k, or the path of a .jsonl or .parquet file",
            )),
        }
    }

    /// The name that runs and reports give it: `math500`, `gsm8k`, or the file's name.
    pub fn name(&self) -> String {
        match self {
            Self::Math500 => "math500".into(),
            Self::Gsm8k => "gsm8k".into(),
            Self::File(path) => {
                path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into())
            }
        }
    }
}

/// A whole data set in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProblemSet {
    /// Its name.
    pub name: String,
    /// Its problems, in order; never empty.
    pub problems: Vec<Problem>,
}

impl ProblemSet {
    /// Reads a data set from its file, or from the hub's cache or the hub.
    pub fn load(spec: &DatasetSpec, fields: &Fields, hub: &Hub, progress: &mut dyn DownloadProgress) -> Result<Self> {
        match spec {
            DatasetSpec::File(path) => Self::from_file(&spec.name(), path, fields),
            DatasetSpec::Math500 => {
                let file = |name: &str| name == "test.jsonl";
                Self::from_hub("math500", "HuggingFaceH4/MATH-500", &file, hub, progress)
            }
            DatasetSpec::Gsm8k => {
                let file = |name: &str| name.starts_with("main/train-") && name.ends_with(".parquet");
                Self::from_hub("gsm8k", "openai/gsm8k", &file, hub, progress)
            }
        }
    }

    fn from_hub(
        name: &str,
        id: &str,
        wanted: &dyn Fn(&str) -> bool,
        hub: &Hub,
        progress: &mut dyn DownloadProgress,
    ) -> Result<Self> {
        let choose = |files: &[String]| match files.iter().filter(|file| wanted(file)).cloned().collect::<Vec<_>>() {
            files if files.is_empty() => Err("it has no file of the expected name".into()),
            files => Ok(files),
        };
        let complete = |snapshot: &Snapshot| !files_in(&snapshot.folder, wanted).is_empty();
        let snapshot = hub.snapshot(&Repo::dataset(id), &complete, &choose, progress)?;
        let mut problems = Vec::new();
        for path in files_in(&snapshot.folder, wanted) {
            problems.extend(Self::from_file(name, &path, &Fields::default())?.problems);
        }
        problems.iter_mut().enumerate().for_each(|(index, problem)| problem.index = index);
        Ok(Self { name: name.into(), problems })
    }

    /// Reads a `.jsonl` or `.parquet` file.
    pub fn from_file(name: &str, path: &Path, fields: &Fields) -> Result<Self> {
        let problems = match FileKind::of(path) {
            Some(FileKind::Jsonl) => {
                let bytes = files::read(path).map_err(|source| DataError::io(path, "read the data set", source))?;
                from_jsonl(path, &bytes, fields)?
            }
            Some(FileKind::Parquet) => from_parquet(path, fields)?,
            None => {
                let what = format!("{}: a data set must end in .jsonl or .parquet", path.display());
                return Err(DataError::argument(what, "give such a file"));
            }
        };
        Self::checked(name, path, problems)
    }

    /// Reads JSON lines that lie in memory, such as the list that the program carries.
    pub fn from_jsonl_bytes(name: &str, bytes: &[u8], fields: &Fields) -> Result<Self> {
        let path = Path::new(name);
        Self::checked(name, path, from_jsonl(path, bytes, fields)?)
    }

    /// Its name and a hash of its first problem: tells it from another of the same name, and stays as it is when problems are
    /// added.
    pub fn identity(&self) -> String {
        format!("{} {}", self.name, self.fingerprint())
    }

    /// A hash of its first problem.
    pub fn fingerprint(&self) -> String {
        let first = self.problems.first().map(|problem| format!("{:?} {:?}", problem.text, problem.answer));
        short_sha256(first.unwrap_or_default())
    }

    /// The problems `start..end`, `end` exclusive.
    pub fn select(&self, start: usize, end: usize) -> Result<&[Problem]> {
        let (name, count) = (&self.name, self.problems.len());
        if end <= start {
            let what = format!("problems {start}..{end} of data set {name} are an empty range (the end is exclusive)");
            return Err(DataError::argument(what, "give an end index greater than the start index"));
        }
        self.problems.get(start..end).ok_or_else(|| {
            DataError::argument(
                format!("problems {start}..{end} reach beyond the {count} problems of data set {name}"),
                format!("give an end index of at most {count}"),
            )
        })
    }

    fn checked(name: &str, path: &Path, problems: Vec<Problem>) -> Result<Self> {
        if problems.is_empty() {
            return Err(DataError::damaged(path, "the data set is empty", "give a file with one problem a line"));
        }
        Ok(Self { name: name.into(), problems })
    }
}

/// A hash of a problem's words, without spaces at the ends, which the Python scripts keep and `tpv generate` need not.
pub fn words_fingerprint(text: &str) -> String {
    short_sha256(text.trim().to_owned())
}

/// The gold answer in an answer field: what follows the last `####` with its commas removed (GSM8K), else all of it.
pub fn gold_answer(field: &str) -> String {
    match field.rsplit_once("####") {
        Some((_, gold)) => gold.trim().replace(',', ""),
        None => field.trim().to_string(),
    }
}

/// The files of a snapshot whose names, with at most one folder before them, are wanted; in order.
fn files_in(snapshot: &Path, wanted: &dyn Fn(&str) -> bool) -> Vec<PathBuf> {
    let entries = |folder: &Path| std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let below = |path: PathBuf| if path.is_dir() { entries(&path).collect() } else { vec![path] };
    let name =
        |path: &Path| path.strip_prefix(snapshot).ok().and_then(Path::to_str).map(|name| name.replace('\\', "/"));
    let mut files: Vec<PathBuf> = entries(snapshot).flat_map(below).collect();
    files.retain(|path| path.is_file() && name(path).is_some_and(|name| wanted(&name)));
    files.sort();
    files
}

/// What all problems may take: a few bytes of a compressed file can stand for any number.
const MOST_BYTES: usize = 1 << 30;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FileKind {
    Jsonl,
    Parquet,
}

impl FileKind {
    fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()? {
            "jsonl" => Some(Self::Jsonl),
            "parquet" => Some(Self::Parquet),
            _ => None,
        }
    }
}

fn from_jsonl(path: &Path, bytes: &[u8], fields: &Fields) -> Result<Vec<Problem>> {
    let text = std::str::from_utf8(bytes)
        .map_err(|error| DataError::damaged(path, format!("not UTF-8 text ({error})"), "give a JSON lines file"))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .enumerate()
        .map(|(index, (line_index, line))| {
            let place = format!("line {}", line_index + 1);
            let record: Value = serde_json::from_str(line).map_err(|error| {
                DataError::damaged(path, format!("{place} is not JSON ({error})"), "give one JSON object a line")
            })?;
            problem_of(path, &place, index, &record, fields)
        })
        .collect()
}

/// The library panics on some damaged files.
fn from_parquet(path: &Path, fields: &Fields) -> Result<Vec<Problem>> {
    quietly(|| read_parquet(path, fields)).unwrap_or_else(|| {
        Err(DataError::damaged(path, "its parts contradict each other", "download or export it again"))
    })
}

fn read_parquet(path: &Path, fields: &Fields) -> Result<Vec<Problem>> {
    let file = files::open(path).map_err(|source| DataError::io(path, "read the data set", source))?;
    let damaged = |error: parquet::errors::ParquetError| {
        let text = error.to_string();
        if text.contains("Disabled feature") {
            let what = format!("the parquet file is compressed in a way that is not read here ({text})");
            return DataError::damaged(path, what, "export it with snappy or zstd, or without compression");
        }
        DataError::damaged(path, format!("not a complete parquet file ({text})"), "download or export it again")
    };
    let reader = SerializedFileReader::new(file).map_err(damaged)?;
    let rows = reader.get_row_iter(None).map_err(damaged)?;
    let mut bytes = 0;
    rows.enumerate()
        .map(|(index, row)| {
            let columns = row.map_err(damaged)?.into_columns();
            let record = columns.into_iter().map(|(name, field)| (name, json_of(field))).collect();
            let problem = problem_of(path, &format!("row {index}"), index, &Value::Object(record), fields)?;
            bytes += size_of::<Problem>() + problem.text.len() + problem.answer.as_ref().map_or(0, String::len);
            if bytes > MOST_BYTES {
                let what = format!("its problems take more than {} MB in memory", MOST_BYTES >> 20);
                return Err(DataError::damaged(path, what, "give a part of it"));
            }
            Ok(problem)
        })
        .collect()
}

/// The scalar values that a problem or an answer may have; anything else becomes null, as if it were not there.
fn json_of(field: Field) -> Value {
    match field {
        Field::Str(text) => text.into(),
        Field::Bytes(bytes) => bytes.as_utf8().map_or(Value::Null, Value::from),
        Field::Bool(value) => value.into(),
        Field::Byte(value) => value.into(),
        Field::Short(value) => value.into(),
        Field::Int(value) => value.into(),
        Field::Long(value) => value.into(),
        Field::UByte(value) => value.into(),
        Field::UShort(value) => value.into(),
        Field::UInt(value) => value.into(),
        Field::ULong(value) => value.into(),
        field @ Field::Decimal(_) => field.to_string().into(),
        Field::Float(value) => value.into(),
        Field::Double(value) => value.into(),
        _ => Value::Null,
    }
}

fn problem_of(path: &Path, place: &str, index: usize, record: &Value, fields: &Fields) -> Result<Problem> {
    let text = match &fields.problem {
        Some(name) => text_field(record, name),
        None => ["problem", "question", "prompt"].iter().find_map(|name| text_field(record, name)),
    };
    let text = text.ok_or_else(|| no_field(path, place, record, fields.problem.as_deref(), "--problem_field"))?;
    let answer = text_field(record, fields.answer.as_deref().unwrap_or("answer"));
    if answer.is_none() && fields.answer.is_some() {
        return Err(no_field(path, place, record, fields.answer.as_deref(), "--answer_field"));
    }
    Ok(Problem { index, text, answer: answer.map(|field| gold_answer(&field)) })
}

fn text_field(record: &Value, name: &str) -> Option<String> {
    match record.get(name)? {
        Value::String(text) => Some(text.clone()),
        value @ (Value::Number(_) | Value::Bool(_)) => Some(value.to_string()),
        _ => None,
    }
}

fn no_field(path: &Path, place: &str, record: &Value, wanted: Option<&str>, flag: &str) -> DataError {
    let wanted = wanted.map_or("problem, question or prompt".to_string(), |name| format!("\"{name}\""));
    let found = record.as_object().map_or("not a JSON object".to_string(), |object| {
        format!("it has {}", object.keys().map(|key| format!("\"{key}\"")).collect::<Vec<_>>().join(", "))
    });
    DataError::damaged(
        path,
        format!("{place} has no text field {wanted} ({found})"),
        format!("name the field with {flag}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;
    use std::fs;
    use std::fs::File;
    use std::sync::Arc;

    fn jsonl(text: &str) -> Result<ProblemSet> {
        ProblemSet::from_jsonl_bytes("sample", text.as_bytes(), &Fields::default())
    }

    fn fields(problem: &str, answer: &str) -> Fields {
        Fields { problem: Some(problem.into()), answer: Some(answer.into()) }
    }

    /// Writes rows of (question, answer) and a number.
    fn write_parquet(path: &Path, rows: &[(&str, &str)], compression: parquet::basic::Compression) {
        let schema =
            "message schema { required binary question (UTF8); required binary answer (UTF8); required int64 n; }";
        let schema = Arc::new(parse_message_type(schema).unwrap());
        let properties = Arc::new(WriterProperties::builder().set_compression(compression).build());
        let mut writer = SerializedFileWriter::new(File::create(path).unwrap(), schema, properties).unwrap();
        let mut group = writer.next_row_group().unwrap();
        for pick in [|row: &(&str, &str)| row.0.to_string(), |row: &(&str, &str)| row.1.to_string()] {
            let texts: Vec<ByteArray> = rows.iter().map(|row| pick(row).as_str().into()).collect();
            let mut column = group.next_column().unwrap().unwrap();
            column.typed::<ByteArrayType>().write_batch(&texts, None, None).unwrap();
            column.close().unwrap();
        }
        let numbers: Vec<i64> = (0..rows.len() as i64).collect();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<Int64Type>().write_batch(&numbers, None, None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
        writer.close().unwrap();
    }

    #[test]
    fn reads_json_lines_with_the_usual_fields() {
        let set = jsonl("{\"problem\": \"1+1?\", \"answer\": 2}\n\n{\"question\": \"q\"}\n").unwrap();
        assert_eq!(set.problems[0], Problem { index: 0, text: "1+1?".into(), answer: Some("2".into()) });
        assert_eq!(set.problems[1], Problem { index: 1, text: "q".into(), answer: None });
    }

    #[test]
    fn the_gold_answer_of_gsm8k_follows_the_marker() {
        assert_eq!(gold_answer("3 * 400 = <<3*400=1200>>1200\n#### 1,200"), "1200");
        assert_eq!(gold_answer("\\frac{1}{2}, 3 "), "\\frac{1}{2}, 3");
    }

    #[test]
    fn named_fields_must_be_there() {
        let line = b"{\"q\": \"why\", \"a\": \"because\"}";
        let set = ProblemSet::from_jsonl_bytes("sample", line, &fields("q", "a")).unwrap();
        assert_eq!(set.problems[0].answer.as_deref(), Some("because"));
        let text = ProblemSet::from_jsonl_bytes("sample", line, &fields("p", "a")).unwrap_err().to_string();
        assert_eq!(
            text,
            "sample: line 1 has no text field \"p\" (it has \"a\", \"q\"); name the field with --problem_field"
        );
        let text = ProblemSet::from_jsonl_bytes("sample", line, &fields("q", "b")).unwrap_err().to_string();
        assert!(text.contains("--answer_field"), "{text}");
    }

    #[test]
    fn bad_json_lines_are_refused_with_the_line() {
        for (text, expected) in [
            ("{\"problem\": \"a\"}\n{\"prob", "line 2 is not JSON"),
            ("[1]", "line 1 has no text field problem, question or prompt (not a JSON object)"),
            ("{\"problem\": [\"nested\"]}", "line 1 has no text field"),
            ("", "the data set is empty"),
            ("\n \n", "the data set is empty"),
        ] {
            let message = jsonl(text).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
        let message = ProblemSet::from_jsonl_bytes("x", b"\xff\xfe", &Fields::default()).unwrap_err().to_string();
        assert!(message.contains("not UTF-8"), "{message}");
    }

    #[test]
    fn ranges_are_checked() {
        let set = jsonl("{\"problem\": \"a\"}\n{\"problem\": \"b\"}\n{\"problem\": \"c\"}").unwrap();
        assert_eq!(set.select(1, 3).unwrap().iter().map(|p| p.index).collect::<Vec<_>>(), [1, 2]);
        assert!(set.select(2, 2).unwrap_err().to_string().contains("2..2 of data set sample are an empty range"));
        assert!(set.select(2, 1).unwrap_err().to_string().contains("empty range"));
        assert!(set.select(0, 4).unwrap_err().to_string().contains("beyond the 3 problems"));
        assert!(set.select(7, 8).unwrap_err().to_string().contains("at most 3"));
    }

    #[test]
    fn reads_parquet_in_every_compression_that_the_hub_uses() {
        use parquet::basic::{Compression, ZstdLevel};
        let folder = tempfile::tempdir().unwrap();
        let rows = [("How many?", "1 + 1 = 2\n#### 2"), ("And \u{00e4}?", "#### 1,000")];
        for compression in [Compression::UNCOMPRESSED, Compression::SNAPPY, Compression::ZSTD(ZstdLevel::default())] {
            let path = folder.path().join("x.parquet");
            write_parquet(&path, &rows, compression);
            let set = ProblemSet::from_file("x", &path, &Fields::default()).unwrap();
            assert_eq!(
                set.problems[1],
                Problem { index: 1, text: "And \u{00e4}?".into(), answer: Some("1000".into()) }
            );
            let set = ProblemSet::from_file("x", &path, &fields("question", "n")).unwrap();
            assert_eq!(set.problems[1].answer.as_deref(), Some("1"));
        }
    }

    #[test]
    fn gsm8k_comes_from_the_cached_parquet_files_of_its_main_train_split() {
        let cache = tempfile::tempdir().unwrap();
        let repo = cache.path().join("datasets--openai--gsm8k");
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let snapshot = repo.join("snapshots").join(commit);
        for folder in [repo.join("refs"), snapshot.join("main"), snapshot.join("socratic")] {
            std::fs::create_dir_all(folder).unwrap();
        }
        std::fs::write(repo.join("refs/main"), commit).unwrap();
        let compression = parquet::basic::Compression::SNAPPY;
        let files = [
            ("main/train-00000-of-00002.parquet", ("How many?", "1 + 1 = 2\n#### 1,002")),
            ("main/train-00001-of-00002.parquet", ("And then?", "#### 7")),
            ("main/test-00000-of-00001.parquet", ("Not this", "#### 0")),
            ("socratic/train-00000-of-00001.parquet", ("Nor this", "#### 0")),
        ];
        for (name, row) in files {
            write_parquet(&snapshot.join(name), &[row], compression);
        }
        let environment = crate::hub::environment::HubEnvironment {
            cache: cache.path().into(),
            token: None,
            endpoint: "http://127.0.0.1:1".into(),
            offline: true,
        };
        let hub = Hub::new(environment);
        let set = ProblemSet::load(&DatasetSpec::Gsm8k, &Fields::default(), &hub, &mut crate::hub::Silent).unwrap();
        let problem =
            |index, text: &str, answer: &str| Problem { index, text: text.into(), answer: Some(answer.into()) };
        assert_eq!(set.problems, [problem(0, "How many?", "1002"), problem(1, "And then?", "7")]);
    }

    #[test]
    fn hostile_parquet_is_refused_without_a_panic() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.parquet");
        write_parquet(&path, &[("How many?", "2")], parquet::basic::Compression::SNAPPY);
        let good = fs::read(&path).unwrap();
        for (name, bytes) in crate::tensors::hostile_copies(&good) {
            fs::write(&path, bytes).unwrap();
            assert!(ProblemSet::from_file("x", &path, &Fields::default()).is_err(), "{name}");
        }
        // Some of these make the library panic.
        let mut refused = 0;
        for place in 0..good.len() {
            let mut bytes = good.clone();
            bytes[place] ^= 1 << (place % 8);
            fs::write(&path, bytes).unwrap();
            refused += usize::from(ProblemSet::from_file("x", &path, &Fields::default()).is_err());
        }
        assert!(refused > 100, "{refused} of {}", good.len());
    }

    #[test]
    fn unknown_data_sets_and_endings_are_refused() {
        assert_eq!(DatasetSpec::parse("a/b.jsonl").unwrap().name(), "b.jsonl");
        assert!(DatasetSpec::parse("aime").unwrap_err().to_string().contains("unknown data set \"aime\""));
        let missing = ProblemSet::from_file("x", Path::new("no/such.jsonl"), &Fields::default());
        assert!(missing.unwrap_err().to_string().contains("no/such.jsonl: cannot read the data set"));
    }

    #[test]
    fn the_real_files_have_the_published_sizes() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
        if !folder.is_dir() {
            eprintln!("skipped: {} is not there", folder.display());
            return;
        }
        let math = ProblemSet::from_file("math500", &folder.join("math500.jsonl"), &Fields::default()).unwrap();
        assert_eq!(math.problems.len(), 500);
        assert_eq!(math.problems[0].answer.as_deref(), Some("\\left( 3, \\frac{\\pi}{2} \\right)"));
        let gsm8k = ProblemSet::from_file("gsm8k", &folder.join("gsm8k_train.jsonl"), &Fields::default()).unwrap();
        assert_eq!(gsm8k.problems.len(), 7473);
        assert!(gsm8k.problems.iter().all(|p| p.answer.as_ref().is_some_and(|a| a.parse::<f64>().is_ok())));
    }
}
