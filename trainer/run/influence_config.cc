#include "trainer/run/influence_config.h"

#include <fmt/format.h>

namespace cadre::trainer {

InfluenceConfig read_influence(base::Section s) {
  InfluenceConfig c;
  c.period = s.integer("period", c.period, {.min = 0});
  c.micro_batches = s.integer("micro_batches", c.micro_batches, {.min = 1});
  c.tokens_per_domain = s.integer("tokens_per_domain", c.tokens_per_domain, {.min = 1});
  c.tokens_per_probe = s.integer("tokens_per_probe", c.tokens_per_probe, {.min = 0});
  c.targets = s.choice("targets", c.targets, {"mean", "domains"});
  c.manifest = s.text("manifest", c.manifest);
  c.split = s.text("split", c.split);
  c.direction = s.choice("direction", c.direction, {"optimizer", "gradient"});
  c.ema = s.number("ema", c.ema, {.min = 0, .below = 1});
  s.finish();
  return c;
}

YAML::Node influence_node(const InfluenceConfig& c) {
  YAML::Node n;
  n["period"] = c.period;
  n["micro_batches"] = c.micro_batches;
  n["tokens_per_domain"] = c.tokens_per_domain;
  n["tokens_per_probe"] = c.tokens_per_probe;
  n["targets"] = c.targets;
  n["manifest"] = c.manifest;
  n["split"] = c.split;
  n["direction"] = c.direction;
  n["ema"] = fmt::format("{}", c.ema);  // the shortest text that reads back as the same number
  return n;
}

}  // namespace cadre::trainer
