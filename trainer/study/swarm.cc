#include "trainer/study/swarm.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <nlohmann/json.hpp>

#include "parallel/base/file_lock.h"
#include "parallel/base/files.h"
#include "trainer/run/initial_model.h"
#include "trainer/study/plots.h"
#include "trainer/study/statistics.h"
#include "trainer/study/study_report.h"

namespace cadre::study {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

// RegMix's numbers.
constexpr int64_t kSearchDraws = 100000, kSearchBest = 128;
constexpr int kFolds = 5;

std::string mix_json(const std::vector<std::string>& domains, const Mix& mix) {
  ordered_json out = ordered_json::object();
  for (size_t k = 0; k < domains.size(); ++k) out[domains[k]] = mix[k];
  return out.dump(1) + "\n";
}

std::string mix_name(size_t i) {
  return fmt::format("mix{:03}", i);
}

fs::path mix_file(const SwarmConfig& config, size_t i) {
  return fs::path(config.study.out) / "mixes" / (mix_name(i) + ".json");
}

Mix natural_of(const std::vector<int64_t>& tokens) {
  double sum = 0;
  for (const int64_t n : tokens) sum += double(n);
  Mix out;
  for (const int64_t n : tokens) out.push_back(double(n) / sum);
  return out;
}

Table mix_table(const SwarmFit& fit) {
  Table table = {{"mix"}};
  for (const std::string& name : fit.domains) table[0].push_back(name);
  table[0].push_back("mean loss by the laws");
  for (const auto& [name, mix] : {std::pair{"natural", &fit.natural},
                                  {"best that was tried", &fit.best},
                                  {"proposal", &fit.proposal}}) {
    table.push_back({name});
    for (const double w : *mix) table.back().push_back(fmt::format("{:.4f}", w));
    double loss = 0;
    for (const LogLinearLaw& law : fit.laws) loss += law(*mix) / double(fit.laws.size());
    table.back().push_back(fmt::format("{:.4f}", loss));
  }
  return table;
}

std::string note_of(const SwarmConfig& config, const SwarmFit& fit) {
  return fmt::format(
      "{} mixes, method {}. Laws against runs that they were not fitted on, mean loss: Pearson {:.3f}, "
      "Spearman {:.3f}.",
      fit.real.size(), config.method, fit.pearson, fit.spearman);
}

void write_fit(const SwarmConfig& config, const StudyConfig& study, const SwarmFit& fit,
               const std::vector<RunResult>& results) {
  const fs::path out = config.study.out;
  ScatterPoints points{"mixes", {}};
  for (size_t i = 0; i < fit.real.size(); ++i) points.points.push_back({fit.cross_validated[i], fit.real[i]});
  const std::string chart = scatter_chart("mean loss of a mix", fmt::format("Spearman {:.3f}", fit.spearman),
                                          "by laws fitted without it", "measured", {points});
  ordered_json root = {{"method", config.method},
                       {"domains", fit.domains},
                       {"targets", fit.targets},
                       {"natural", fit.natural},
                       {"best", fit.best},
                       {"proposal", fit.proposal},
                       {"cross_validated_pearson", fit.pearson},
                       {"cross_validated_spearman", fit.spearman},
                       {"laws", ordered_json::array()}};
  for (const LogLinearLaw& law : fit.laws)
    root["laws"].push_back({{"floor", law.floor}, {"slope", law.slope}});
  base::write_file_atomic(out / "swarm.json", root.dump(1) + "\n", ExitCode::kData);
  base::write_file_atomic(out / "proposal.json", mix_json(fit.domains, fit.proposal), ExitCode::kData);
  base::write_file_atomic(out / "best.json", mix_json(fit.domains, fit.best), ExitCode::kData);
  base::write_file_atomic(out / "swarm.svg", svg_document(chart), ExitCode::kData);
  base::write_file_atomic(
      out / "swarm.md",
      fmt::format("## Swarm\n\n{}\n\n{}", note_of(config, fit), markdown_table(mix_table(fit))),
      ExitCode::kData);
  const std::string body =
      html_section("Swarm", note_of(config, fit), "stack", html_table(mix_table(fit)) + chart);
  base::write_file_atomic(
      out / "swarm.html",
      html_document(out.filename().string(),
                    fmt::format("{} of {} runs are over", results.size(), study.runs.size()), body),
      ExitCode::kData);
}

}  // namespace

SwarmConfig read_swarm(base::Section s) {
  SwarmConfig c;
  c.study.base = read_base(s);
  c.study.out = s.text("out");
  c.set = read_overrides(s, "set");
  c.draw.count = s.integer("mixes", c.draw.count, {.min = 8});
  c.draw.seed = uint64_t(s.integer("seed", int64_t(c.draw.seed), {.min = 0}));
  const std::vector<double> scale = s.numbers("scale", {c.draw.low, c.draw.high}, {.above = 0});
  if (scale.size() != 2 || scale[0] > scale[1]) s.reject("scale", "expected two rising numbers");
  c.draw.low = scale[0], c.draw.high = scale[1];
  c.draw.max_ratio = s.number("max_ratio", c.draw.max_ratio, {.above = 1});
  c.method = s.choice("method", c.method, {"olmix", "regmix"});
  c.kl = s.number("kl", c.kl, {.min = 0});
  c.max_share = s.number("max_share", c.max_share, {.max = 1, .above = 0});
  c.max_epochs = s.number("max_epochs", c.max_epochs, {.min = 0});
  c.tokens = s.integer("tokens", c.tokens, {.min = 0});
  c.study.metric = s.choice("metric", c.study.metric, {"eval_loss", "eval_bpb"});
  s.finish();
  trainer::load_run(c.study.base, as_arguments(c.set));  // finds mistakes now
  return c;
}

StudyConfig study_of(const SwarmConfig& config) {
  StudyConfig study = config.study;
  for (size_t i = 0; i < size_t(config.draw.count); ++i) {
    StudyRun run{.name = mix_name(i), .cell = mix_name(i), .overrides = config.set};
    run.overrides.emplace_back("mixer",
                               fmt::format("{{name: file, path: \"{}\"}}", mix_file(config, i).string()));
    study.runs.push_back(std::move(run));
  }
  return study;
}

SwarmFit fit_swarm(const SwarmConfig& config, const std::vector<std::string>& domains,
                   const std::vector<int64_t>& domain_tokens, const std::vector<Mix>& mixes,
                   const std::vector<std::map<std::string, double>>& losses) {
  SwarmFit fit;
  fit.domains = domains;
  fit.natural = natural_of(domain_tokens);
  for (const auto& [name, loss] : losses.at(0)) fit.targets.push_back(name);
  fit.real.assign(mixes.size(), 0);
  fit.cross_validated.assign(mixes.size(), 0);
  const double share = 1 / double(fit.targets.size());
  for (const std::string& target : fit.targets) {
    std::vector<double> of_target;
    for (const auto& one : losses) of_target.push_back(one.at(target));
    const std::vector<double> predicted = cross_validate(mixes, of_target, kFolds);
    for (size_t i = 0; i < mixes.size(); ++i) {
      fit.real[i] += share * of_target[i];
      fit.cross_validated[i] += share * predicted[i];
    }
    fit.laws.push_back(fit_law(mixes, of_target));
  }
  fit.pearson = pearson(fit.cross_validated, fit.real);
  fit.spearman = spearman(fit.cross_validated, fit.real);
  fit.best = mixes[size_t(std::min_element(fit.real.begin(), fit.real.end()) - fit.real.begin())];
  std::vector<double> cap(domains.size(), config.max_share);
  for (size_t k = 0; k < cap.size() && config.max_epochs > 0; ++k)
    cap[k] = std::min(cap[k], config.max_epochs * double(domain_tokens[k]) / double(config.tokens));
  fit.proposal = config.method == "olmix" ? propose_convex(fit.laws, fit.natural, cap, config.kl)
                                          : propose_by_search(fit.laws, fit.natural, cap, kSearchDraws,
                                                              kSearchBest, config.draw.seed);
  return fit;
}

ExitCode run_swarm(const SwarmConfig& given, comm::World& world, const StudyOptions& options) {
  SwarmConfig config = given;
  const trainer::RunConfig proxy = trainer::load_run(config.study.base, as_arguments(config.set));
  if (config.tokens == 0) config.tokens = proxy.train.steps * proxy.train.global_batch * proxy.data.seq_len;
  StudyOptions study_options = options;
  DatasetCache datasets;
  if (study_options.dataset == nullptr) study_options.dataset = &datasets.open(proxy);
  const data::MixerContext text = data::mixer_context(*study_options.dataset->train, config.tokens);
  const std::vector<Mix> mixes = draw_mixes(config.draw, natural_of(text.domain_tokens));
  const StudyConfig study = study_of(config);
  const auto ranks = world.everyone("swarm");
  const auto on_first_rank = [&](const char* what, const std::function<void()>& body) {
    std::string error;
    try {
      if (ranks->rank() == 0) body();
    } catch (const Error& e) {
      error = e.what();
    }
    ranks->agree(error, ExitCode::kData, what);
  };
  // Other processes may be at the same, with the same mixes and the same laws.
  const auto alone = [&] { return base::FileLock::wait_for(fs::path(config.study.out) / "study.lock"); };
  on_first_rank("write the mixes", [&] {
    fs::create_directories(fs::path(config.study.out) / "mixes");
    const base::FileLock lock = alone();
    for (size_t i = 0; i < mixes.size(); ++i)
      base::write_file_atomic(mix_file(config, i), mix_json(text.domains, mixes[i]), ExitCode::kData);
  });
  const ExitCode code = run_study(study, world, study_options);
  if (code == ExitCode::kStopped) return code;
  on_first_rank("write the swarm's fit", [&] {
    const std::vector<RunResult> results = collect_results(study);
    std::vector<Mix> run;
    std::vector<std::map<std::string, double>> losses;
    for (size_t i = 0; i < results.size(); ++i) {
      if (!results[i].error.empty()) continue;
      run.push_back(mixes[i]);
      losses.push_back(results[i].domains);
    }
    require(run.size() >= 8, ExitCode::kData, "{} of {} runs of the swarm ended well, too few for a law",
            run.size(), mixes.size());
    const SwarmFit fit = fit_swarm(config, text.domains, text.domain_tokens, run, losses);
    const base::FileLock lock = alone();
    write_fit(config, study, fit, results);
  });
  return code;
}

}  // namespace cadre::study
