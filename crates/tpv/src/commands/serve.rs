//! `tpv serve`: the model behind an OpenAI-compatible API, with a page.

use crate::args::{ReasoningArg, RunArgs, ServeArgs};
use crate::console::Console;
use crate::model::{open_model, paced};
use crate::vectors::{find, remark_on_cut_thoughts};
use anyhow::{Context, Result, bail};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;
use tpv_data::vector::VectorFile;
use tpv_engine::model::TextModel;
use tpv_server::config::{Access, Limits, ReasoningFields, ServerConfig};
use tpv_server::{Served, ServedVector, Server};

/// Problems of the bundled list that the page offers.
const EXAMPLES: [usize; 4] = [200, 215, 230, 260];

/// Runs the command.
pub fn run(args: &ServeArgs, console: &Console) -> Result<()> {
    args.draws.params().validate()?;
    let server = Server::start(config(args)?)?;
    let url = format!("http://{}", server.address());
    console.say(format!("loading {} ...", args.model));
    // As many as the limits admit: what is admitted should not wait for a slot.
    let run = RunArgs { max_batch: Some(max_batch(args)), ..paced(&args.run, args.pace > 0.0, console) };
    let model = open_model(&args.model, &run, console)?;
    let vector = served_vector(args, &model, console)?;
    let server = server.load(Served { model, vector })?;
    console.say(format!("the page is at {url}/, the API at {url}/v1; Ctrl-C stops"));
    console.emit("serving", &serde_json::json!({ "url": url, "model": args.model }));
    console.obey_hurry();
    server.run(|| console.check_interrupted().is_err(), || console.is_hurried());
    console.say("stopped");
    Ok(())
}

fn max_batch(args: &ServeArgs) -> usize {
    args.run.max_batch.unwrap_or(Limits::default().max_batch)
}

fn config(args: &ServeArgs) -> Result<ServerConfig> {
    let ip: IpAddr = match args.host.as_str() {
        "localhost" => IpAddr::from([127, 0, 0, 1]),
        host => host.parse().with_context(|| format!("--host {host} is no address; give one such as 0.0.0.0"))?,
    };
    let access = Access {
        api_key: api_key(args)?,
        open_to_all: args.no_auth,
        allowed_hosts: args.allow_host.clone(),
        allowed_origins: args.allow_origin.clone(),
    };
    let limits = Limits {
        max_batch: max_batch(args),
        max_queue: args.max_queue,
        max_per_client: args.max_per_client.unwrap_or(usize::MAX),
        max_connections_per_client: args.max_connections_per_client,
        max_body_bytes: args.max_body_bytes,
        max_new_tokens: args.max_new_tokens,
        request_time: Duration::from_secs(args.request_secs),
        grace: Duration::from_secs(args.grace_secs),
        step_time: step_time(args.pace),
        ..Limits::default()
    };
    Ok(ServerConfig {
        address: SocketAddr::new(ip, args.port),
        model_name: args.model.clone(),
        access,
        limits,
        sampling: args.draws.params(),
        reasoning_fields: match args.reasoning_field {
            ReasoningArg::Both => ReasoningFields::Both,
            ReasoningArg::Reasoning => ReasoningFields::Reasoning,
            ReasoningArg::ReasoningContent => ReasoningFields::ReasoningContent,
        },
        examples: examples(&args.model)?,
    })
}

fn step_time(pace: f64) -> Duration {
    if pace > 0.0 { Duration::from_secs_f64(pace.recip()) } else { Duration::ZERO }
}

fn api_key(args: &ServeArgs) -> Result<Option<String>> {
    // Unlike a data file this one may be a pipe, `<(pass show key)`, so it is not read through `tpv_data::files`.
    let (key, origin) = match (&args.api_key_file, &args.api_key) {
        (Some(path), _) => {
            let key = std::fs::read_to_string(path).with_context(|| format!("{}: cannot be read", path.display()))?;
            (key, path.display().to_string())
        }
        (None, Some(key)) => (key.clone(), "TPV_API_KEY".to_owned()),
        (None, None) => return Ok(None),
    };
    // A file ends with a line break as a rule.
    match key.trim() {
        "" => bail!("{origin} is there and holds no key; put one in, or leave it out"),
        key => Ok(Some(key.to_owned())),
    }
}

fn examples(model: &str) -> Result<Vec<String>> {
    if model != crate::model::THINKER {
        let questions = ["How many positive divisors does 360 have?", "What is the remainder of 7^100 divided by 13?"];
        return Ok(questions.map(str::to_owned).into());
    }
    let lines: Vec<&str> = tpv_thinker::PROBLEMS_JSONL.lines().collect();
    let problem = |&place: &usize| -> Result<String> {
        let line: serde_json::Value = serde_json::from_str(lines[place])?;
        Ok(line["problem"].as_str().unwrap_or_default().to_owned())
    };
    EXAMPLES.iter().map(problem).collect()
}

/// The model's vector; one of another model of the same width is served with a warning.
fn served_vector(args: &ServeArgs, model: &TextModel, console: &Console) -> Result<Option<ServedVector>> {
    let wanted = args.tpv.tpv.as_deref();
    let (file, warnings) = match find(wanted, &model.identity) {
        Ok(Some((_, file))) => (file, Vec::new()),
        Ok(None) => {
            let name = &model.identity.name;
            console.notice(format!(
                "there is no vector for {name}: neither progress nor control; make one with: tpv learn {name}"
            ));
            return Ok(None);
        }
        Err(error) => {
            let path = wanted.map(Path::new).filter(|path| path.exists());
            let file = path.and_then(|path| VectorFile::load(path).ok());
            match file.filter(|file| file.vector.theta.len() == model.identity.hidden_size) {
                Some(file) => (file, vec![error.to_string()]),
                None => return Err(error),
            }
        }
    };
    warnings.iter().for_each(|warning| console.notice(warning));
    remark_on_cut_thoughts(&file.vector).into_iter().for_each(|remark| console.notice(remark));
    Ok(Some(ServedVector { vector: file.vector, warnings }))
}
