// Curricula order documents within a domain: each document belongs to a bucket, and quota() says which share of the
// domain's tokens each bucket gets now. How many sequences a batch takes of each domain stays the mixer's business, so
// that every global batch is as diverse over domains as without a curriculum. One file a curriculum in curricula/, one
// row in curricula/table.cc.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <vector>

#include "parallel/base/batch.h"
#include "parallel/base/table.h"

namespace cadre::data {

class Corpus;

class Curriculum {
 public:
  virtual ~Curriculum() = default;
  virtual int num_buckets() const { return 1; }
  virtual int bucket(int64_t document) const { return (void)document, 0; }
  // (num_buckets) shares of one domain's tokens at the domain's own progress in [0, 1]; sum 1.
  virtual std::vector<double> quota(double domain_progress, int domain) const {
    return (void)domain_progress, (void)domain, std::vector<double>{1.0};
  }
  virtual nlohmann::json save() const { return nlohmann::json::object(); }
  virtual void load(const nlohmann::json& state) { (void)state; }
};

// units: what is planned, a corpus or the view of its pairs; read while the curriculum is made. Null: only the section is
// being checked, and the curriculum has one bucket.
using CurriculumMaker = std::unique_ptr<Curriculum> (*)(base::Section, const Corpus* units);
const std::vector<base::Entry<CurriculumMaker>>& curriculum_table();
std::unique_ptr<Curriculum> make_curriculum(base::Section section, const Corpus* units);

}  // namespace cadre::data
