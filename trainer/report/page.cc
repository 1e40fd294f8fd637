#include "trainer/report/page.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <ctime>
#include <set>

#include "trainer/report/chart.h"
#include "trainer/report/page_experts.h"
#include "trainer/report/style.h"

namespace cadre::report {
namespace {

using Parts = std::map<std::string, Series>;

const Series* find(const std::map<std::string, Series>& all, const std::string& name) {
  const auto it = all.find(name);
  return it == all.end() || it->second.empty() ? nullptr : &it->second;
}

std::string last_number(const Series* series) {
  return series == nullptr ? "&ndash;" : escaped(short_number(series->back().y));
}

double mean_of(const Parts& parts) {
  double sum = 0;
  int count = 0;
  for (const auto& [name, series] : parts) {
    if (series.empty()) continue;
    sum += series.back().y;
    ++count;
  }
  return count > 0 ? sum / count : NAN;
}

const Parts* parts_of(const std::map<std::string, Parts>& all, const std::string& name) {
  const auto it = all.find(name);
  return it == all.end() ? nullptr : &it->second;
}

// Median over the run: the first steps and a busy machine do not show.
std::string median(const Series* series) {
  if (series == nullptr) return "&ndash;";
  std::vector<double> values;
  for (const Point& p : *series) values.push_back(p.y);
  std::nth_element(values.begin(), values.begin() + long(values.size() / 2), values.end());
  return escaped(short_number(values[values.size() / 2]));
}

std::string table_of_runs(const std::vector<RunData>& runs) {
  std::string out =
      "<div class='wide'><table><tr><th>run</th><th>steps</th><th>tokens</th><th>loss</th><th>eval loss</th>"
      "<th>bits/byte</th><th>tokens/s</th><th>step, ms</th><th>MFU</th><th>memory, "
      "GiB</th><th>skipped</th></tr>";
  for (size_t i = 0; i < runs.size(); ++i) {
    const RunData& run = runs[i];
    const Series* loss = find(run.train, "loss");
    const Series smooth = loss != nullptr ? smoothed(*loss, 0.02) : Series();
    const Parts *eval_loss = parts_of(run.eval_by, "eval_loss"), *bits = parts_of(run.eval_by, "eval_bpb");
    const auto mean_text = [](const Parts* parts) {
      return parts == nullptr || std::isnan(mean_of(*parts)) ? std::string("&ndash;")
                                                             : short_number(mean_of(*parts));
    };
    const Series* mfu = find(run.train, "mfu");
    out += fmt::format("<tr><td><i class='c{}'></i>{}</td><td>{}</td>", i % kPaletteSize, escaped(run.name),
                       run.step);
    for (const std::string& cell :
         {last_number(find(run.train, "tokens")), last_number(smooth.empty() ? nullptr : &smooth),
          mean_text(eval_loss), mean_text(bits), median(find(run.train, "tokens_per_s")),
          median(find(run.train, "step_ms")), mfu == nullptr ? std::string("&ndash;") : median(mfu),
          last_number(find(run.train, "mem_gib")), last_number(find(run.train, "skipped_steps"))}) {
      out += "<td>" + cell + "</td>";
    }
    out += "</tr>";
  }
  return out +
         "</table></div><p class='note'>Loss: smoothed over 2% of the run. Evaluation: mean over domains of "
         "the "
         "newest one. Speed: median over the run.</p>";
}

// One chart of a number of all runs.
std::string over_runs(const std::vector<RunData>& runs, const std::string& name, ChartOptions options,
                      bool smooth) {
  std::vector<Line> lines;
  for (size_t i = 0; i < runs.size(); ++i) {
    const Series* series = find(runs[i].train, name);
    if (series == nullptr) continue;
    const bool noisy = smooth && series->size() > 20;
    if (noisy) lines.push_back({runs[i].name, int(i), *series, true});
    lines.push_back({runs[i].name, int(i), noisy ? smoothed(*series, 0.01) : *series});
  }
  options.legend = runs.size() > 1;
  return line_chart(options, lines);
}

// A small chart for each domain with a line for each run; the same height of scale everywhere would hide small ones.
std::string by_domain(const std::vector<RunData>& runs, bool eval, const std::string& name,
                      const char* unit) {
  std::set<std::string> domains;
  for (const RunData& run : runs) {
    const Parts* parts = parts_of(eval ? run.eval_by : run.train_by, name);
    if (parts == nullptr) continue;
    for (const auto& [domain, series] : *parts) domains.insert(domain);
  }
  std::string out;
  for (const std::string& domain : domains) {
    std::vector<Line> lines;
    for (size_t i = 0; i < runs.size(); ++i) {
      const Parts* parts = parts_of(eval ? runs[i].eval_by : runs[i].train_by, name);
      const Series* series = parts == nullptr ? nullptr : find(*parts, domain);
      if (series == nullptr) continue;
      if (!eval && series->size() > 20) lines.push_back({runs[i].name, int(i), *series, true});
      lines.push_back(
          {runs[i].name, int(i), eval || series->size() <= 20 ? *series : smoothed(*series, 0.02)});
    }
    out +=
        line_chart({.title = domain, .y_label = unit, .width = 360, .height = 200, .legend = false}, lines);
  }
  return out;
}

// Shares that add up to 1; one colour a part, the same in every run.
std::string stacked(const std::vector<RunData>& runs, const std::string& name, const char* title) {
  std::string out;
  for (const RunData& run : runs) {
    const Parts* parts = parts_of(run.train_by, name);
    if (parts == nullptr) continue;
    std::vector<Line> lines;
    for (const auto& [domain, series] : *parts) lines.push_back({domain, int(lines.size()), series});
    out += stacked_chart({.title = runs.size() > 1 ? run.name : title}, lines);
  }
  return out;
}

// For each target a line with error bars for every domain of the training text.
std::string influence(const std::vector<RunData>& runs) {
  std::string out;
  for (const RunData& run : runs) {
    for (const auto& [target, domains] : run.influence) {
      std::vector<Line> lines;
      for (const auto& [domain, all] : domains)
        lines.push_back({domain, int(lines.size()), all.value, false, all.error});
      const std::string title = "influence on " + target;
      out += line_chart({.title = runs.size() > 1 ? run.name + ": " + title : title,
                         .y_label = "per token and unit of learning rate; bars: standard errors"},
                        lines);
    }
  }
  return out;
}

// Of runs that train on samples; empty for others.
std::string samples(const std::vector<RunData>& runs) {
  const auto small = [&](const char* name, const char* title, const char* unit) {
    return over_runs(runs, name, {.title = title, .y_label = unit, .height = 200}, true);
  };
  return over_runs(runs, "reward_mean", {.title = "reward of the samples", .y_label = ""}, true) +
         over_runs(runs, "log_w_max_abs",
                   {.title = "largest |log W| of an update", .y_label = "nats", .log_y = true}, true) +
         over_runs(
             runs, "log_w_first_max_abs",
             {.title = "|log W| before the first update", .y_label = "nats", .height = 200, .log_y = true},
             false) +
         small("ess_fraction", "effective sample size", "share of the samples") +
         small("approx_kl", "distance from the sampling policy", "nats per token") +
         small("phi_mean", "mean weight phi", "") + small("entropy", "entropy", "nats per token") +
         small("length_mean", "length of responses", "tokens") +
         small("truncated_fraction", "responses cut off", "share of the samples") +
         small("partial_fraction", "responses begun with older weights", "share of the samples") +
         small("reward_failures", "responses that could not be judged", "samples") +
         small("staleness_mean", "age of tokens", "updates") +
         small("rollout_tokens_per_s", "sampling", "new tokens per second");
}

std::string environment_of(const RunData& run) {
  std::string out = "<h3>" + escaped(run.name) + "</h3>";
  if (run.environment.is_object()) {
    out += "<table class='facts'>";
    for (const auto& [key, value] : run.environment.items()) {
      out += fmt::format("<tr><th>{}</th><td>{}</td></tr>", escaped(key),
                         escaped(value.is_string() ? value.get<std::string>() : value.dump()));
    }
    out += "</table>";
  }
  if (!run.events.empty()) {
    out += fmt::format("<details><summary>{} events</summary><table class='facts'>", run.events.size());
    for (const Event& e : run.events) {
      out += fmt::format("<tr><th>{} {}</th><td>{}</td></tr>", e.step, escaped(e.name), escaped(e.message));
    }
    out += "</table></details>";
  }
  if (run.config.empty()) return out;
  return out + "<details><summary>configuration</summary><pre>" + escaped(run.config) + "</pre></details>";
}

std::string section(const std::string& title, const std::string& note, const char* layout,
                    const std::string& body) {
  if (body.empty()) return "";
  return fmt::format("<section><h2>{}</h2>{}<div class='{}'>{}</div></section>\n", escaped(title),
                     note.empty() ? "" : "<p class='note'>" + escaped(note) + "</p>", layout, body);
}

}  // namespace

std::string html_page(const std::vector<RunData>& runs) {
  std::string names, loads, environments, by_expert;
  for (const RunData& run : runs) {
    names += (names.empty() ? "" : ", ") + run.name;
    loads += expert_load(run);
    by_expert += domain_experts(run);
    environments += environment_of(run);
  }
  std::tm now{};
  const std::time_t seconds = std::time(nullptr);
  gmtime_r(&seconds, &now);
  std::string page = fmt::format(
      "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'><meta name='viewport' "
      "content='width=device-width'>"
      "<meta name='color-scheme' content='light dark'><title>Cadre: "
      "{0}</title><style>{1}</style></head><body><main>"
      "<header><h1>{0}</h1><p class='note'>Cadre report, {2:%Y-%m-%d %H:%M} UTC</p></header>\n{3}",
      escaped(names), kStyle, now, table_of_runs(runs));
  const std::string nats = "nats per token";
  page += section(
      "Loss", "Thin: every line of metrics.jsonl. Thick: averaged over 1% of the run.", "grid2",
      over_runs(runs, "loss", {.title = "training loss", .y_label = nats}, true) +
          over_runs(runs, "grad_norm",
                    {.title = "gradient norm", .y_label = "before clipping", .log_y = true}, true) +
          over_runs(runs, "lr", {.title = "learning rate", .y_label = "", .height = 200, .from_zero = true},
                    false) +
          over_runs(runs, "aux_loss", {.title = "balance loss", .y_label = nats, .height = 200}, true));
  page += section("Training on samples", "", "grid2", samples(runs));
  page += section("Reward by level", "Of the samples that were trained on.", "grid3",
                  by_domain(runs, false, "level_reward", ""));
  page += section("Held-out prompts", "Reward of the likeliest response, by domain.", "grid3",
                  by_domain(runs, true, "eval_reward", ""));
  page += section("Age of tokens", "Share of an update's tokens by age in updates.", "grid2",
                  stacked(runs, "staleness", "share of each age in the batch"));
  page += section("Held-out text", "", "grid3", by_domain(runs, true, "eval_bpb", "bits per byte"));
  page +=
      section("Training loss by domain", "", "grid3", by_domain(runs, false, "domain_loss", nats.c_str()));
  page += section("Domain weights", "", "grid2",
                  stacked(runs, "domain_weight", "share of each domain in the batch"));
  page += section("Influence of the training text", "", "grid2", influence(runs));
  page += section(
      "Speed and memory", "", "grid2",
      over_runs(runs, "tokens_per_s", {.title = "tokens per second", .y_label = "1/s", .from_zero = true},
                true) +
          over_runs(
              runs, "mfu",
              {.title = "model FLOP utilisation", .y_label = "share of the SGEMM peak", .from_zero = true},
              true) +
          over_runs(runs, "step_ms",
                    {.title = "time of a step", .y_label = "ms", .height = 200, .from_zero = true}, true) +
          over_runs(runs, "mem_gib",
                    {.title = "memory of rank 0", .y_label = "GiB", .height = 200, .from_zero = true},
                    false) +
          over_runs(runs, "comm_exposed_ms",
                    {.title = "communication not hidden", .y_label = "ms", .height = 200, .from_zero = true},
                    true) +
          over_runs(runs, "data_wait_ms",
                    {.title = "waiting for data", .y_label = "ms", .height = 200, .from_zero = true}, true));
  page += section("Expert load", "", "stack",
                  over_runs(runs, "expert_load_cv",
                            {.title = "unevenness: deviation over mean, all layers",
                             .width = 760,
                             .height = 200,
                             .from_zero = true},
                            true) +
                      loads);
  page += section("Domains and experts", "The newest counts of each run.", "grid3", by_expert);
  page += section("Configuration and environment", "", "stack", environments);
  return page + "</main></body></html>\n";
}

}  // namespace cadre::report
