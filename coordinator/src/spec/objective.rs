//! Objectives: a region's terms as rows or masks of one subject's encoder.

use super::bundle::Head;
use super::diagnose::{Diagnostic, Diagnostics};
use super::encoder::Encoder;
use super::fields::Located;
use super::files::Files;
use super::input::{self, Wanted};
use super::known::Known;
use super::model::{self, ModelNames, Whereabouts};
use super::region::{ClusterName, Nifti, Region, Term, Volume, Voxels};
use super::volume;
use protocol::job::{self, Input, Kind, Objective, Preset, VolumeMask, VoxelSet};
use std::collections::BTreeMap;
use std::path::Path;

/// A region of one subject: what [`Objective`] is made of, for any preset.
#[derive(Debug, Clone, PartialEq)]
pub struct Resolved(Vec<ResolvedTerm>);

#[derive(Debug, Clone, PartialEq)]
struct ResolvedTerm {
    weight: f64,
    voxels: ResolvedVoxels,
}

#[derive(Debug, Clone, PartialEq)]
enum ResolvedVoxels {
    Rows { rows: Vec<u32>, mask_voxels: u32 },
    Roi(String),
    Cluster { clusters: Input, number: u32 },
    Volume(VolumeMask),
}

impl Resolved {
    /// The objective under a preset: `paper` takes the mean over the whole mask, `default` over the voxels that the head
    /// predicts.
    pub fn objective(&self, preset: Preset) -> Objective {
        let whole_mask_mean = preset == Preset::Paper;
        let terms = self.0.iter().map(|term| job::Term {
            weight: term.weight,
            voxels: match &term.voxels {
                ResolvedVoxels::Rows { rows, mask_voxels } => VoxelSet::Rows {
                    denominator: if whole_mask_mean { *mask_voxels } else { rows.len() as u32 },
                    rows: rows.clone(),
                },
                ResolvedVoxels::Roi(name) => VoxelSet::Roi { name: name.clone(), whole_mask_mean },
                ResolvedVoxels::Cluster { clusters, number } => {
                    VoxelSet::Cluster { clusters: clusters.clone(), number: *number }
                }
                ResolvedVoxels::Volume(mask) => VoxelSet::Volume(VolumeMask { whole_mask_mean, ..mask.clone() }),
            },
        });
        Objective { terms: terms.collect() }
    }
}

/// What a region is resolved against: one subject's encoder and volumes.
#[derive(Debug)]
pub struct Subject<'a> {
    pub name: &'a str,
    /// `None` if it is missing, which has been told.
    pub encoder: Option<&'a Encoder>,
    pub models: &'a ModelNames,
    pub places: &'a Whereabouts,
    pub known: &'a Known,
}

impl Subject<'_> {
    /// Resolves the terms of a region; what is missing or empty is told.
    pub fn resolve(
        &self,
        name: &str,
        region: &Region,
        files: &mut Files<'_>,
        diagnostics: &mut Diagnostics,
    ) -> Option<Resolved> {
        let terms: Vec<_> = region
            .terms
            .iter()
            .map(|term| {
                let voxels = match &term.value.voxels {
                    Voxels::Roi(roi) if matches!(self.encoder, Some(Encoder::ToMake(_))) => {
                        Some(ResolvedVoxels::Roi(roi.clone()))
                    }
                    Voxels::Roi(roi) => self.named("ROI", |head| &head.rois, name, roi, term, diagnostics),
                    Voxels::Cluster(cluster) => {
                        self.named("cluster", |head| &head.clusters, name, cluster, term, diagnostics)
                    }
                    Voxels::ClusterOf(cluster) => self.cluster(name, cluster, term, files, diagnostics),
                    Voxels::Rows(rows) => self.rows(name, rows, rows.len() as u32, term, diagnostics),
                    Voxels::Volume(volume) => self.volume(name, volume, term, files, diagnostics),
                };
                Some(ResolvedTerm { weight: term.value.weight, voxels: voxels? })
            })
            .collect();
        Some(Resolved(terms.into_iter().collect::<Option<_>>()?))
    }

    fn named(
        &self,
        kind: &str,
        lists: impl Fn(&Head) -> &BTreeMap<String, Vec<u32>>,
        region: &str,
        name: &str,
        term: &Located<Term>,
        diagnostics: &mut Diagnostics,
    ) -> Option<ResolvedVoxels> {
        let Encoder::Here(head) = self.encoder? else {
            diagnostics
                .mistake(
                    term.place,
                    format!("the encoder of subject {} is still to be made: it has no {kind}s yet", self.name),
                )
                .note(format!(
                    "asked for by region `{region}`; clusters that an experiment makes are written `food/cluster:1`"
                ));
            return None;
        };
        let lists = lists(head);
        let Some(listed) = lists.get(name) else {
            diagnostics
                .mistake(term.place, format!("the encoder of subject {} has no {kind} `{name}`", self.name))
                .one_of(name, lists.keys().map(String::as_str))
                .note(format!("asked for by region `{region}`; {kind}s stand in {}", head.config.display()));
            return None;
        };
        let mut rows = listed.clone();
        rows.sort_unstable();
        rows.dedup();
        let mask_voxels = head.mask_voxels.get(name).copied().unwrap_or(rows.len() as u32);
        if (mask_voxels as usize) < rows.len() {
            diagnostics
                .mistake(
                    term.place,
                    format!("`mask_voxels` of `{name}` is {mask_voxels}, less than its {} rows", rows.len()),
                )
                .note(format!("correct {}", head.config.display()));
            return None;
        }
        self.rows(region, &rows, mask_voxels, term, diagnostics)
    }

    fn rows(
        &self,
        region: &str,
        rows: &[u32],
        mask_voxels: u32,
        term: &Located<Term>,
        diagnostics: &mut Diagnostics,
    ) -> Option<ResolvedVoxels> {
        let Encoder::Here(head) = self.encoder? else {
            return Some(ResolvedVoxels::Rows { rows: rows.to_vec(), mask_voxels });
        };
        let Some(&last) = rows.last() else {
            self.empty(region, term, diagnostics).note(format!("its list in {} is empty", head.config.display()));
            return None;
        };
        if u64::from(last) >= head.voxels {
            diagnostics
                .mistake(term.place, format!("region `{region}` asks for voxel {last} of subject {}", self.name))
                .note(format!("the head {} has voxels 0 to {}", head.path.display(), head.voxels - 1));
            return None;
        }
        Some(ResolvedVoxels::Rows { rows: rows.to_vec(), mask_voxels })
    }

    fn empty<'d>(&self, region: &str, term: &Located<Term>, diagnostics: &'d mut Diagnostics) -> &'d mut Diagnostic {
        diagnostics.mistake(term.place, format!("region `{region}` has no voxels in subject {}", self.name))
    }

    fn volume(
        &self,
        region: &str,
        volume: &Volume,
        term: &Located<Term>,
        files: &mut Files<'_>,
        diagnostics: &mut Diagnostics,
    ) -> Option<ResolvedVoxels> {
        let mut open = |nifti: &Nifti| {
            let path = match nifti {
                Nifti::File(path) => self.places.path(path, self.name),
                Nifti::Named { folder, name } => {
                    let Some(volumes) = &self.models.volumes else {
                        diagnostics
                            .mistake(term.place, format!("region `{region}` needs `volumes` under `models`"))
                            .note(
                                "expected the folder of the subject's functional volumes, for example \
                                   nsddata/ppdata/{subject}/func1pt8mm",
                            );
                        return None;
                    };
                    let file = format!("{}.nii.gz", name.replace(model::SUBJECT, self.name));
                    self.places.path(&volumes.value, self.name).join(folder).join(file)
                }
            };
            files.volume(&path, term.place, diagnostics)
        };
        let mask = open(&volume.mask);
        let above = match &volume.above {
            Some((map, threshold)) => Some((open(map)?, *threshold)),
            None => None,
        };
        let (mask, encoder) = (mask?, self.encoder?);
        let selection = volume::Selection {
            mask: &mask.voxels,
            labels: &volume.labels,
            above: above.as_ref().map(|(map, threshold)| (&map.voxels, *threshold)),
        };
        self.check(region, &selection, &mask.path, encoder, term, diagnostics)?;
        Some(ResolvedVoxels::Volume(VolumeMask {
            mask: mask.path.clone(),
            mask_sha256: mask.sha256.clone(),
            labels: volume.labels.clone(),
            t_map: above.as_ref().map(|(map, _)| map.path.clone()),
            t_map_sha256: above.as_ref().map(|(map, _)| map.sha256.clone()),
            t_above: above.as_ref().map(|(_, threshold)| *threshold),
            whole_mask_mean: false,
        }))
    }

    /// Whether the selection has voxels, and the head predicts any of them; the second only where there is a head to look at.
    fn check(
        &self,
        region: &str,
        selection: &volume::Selection<'_>,
        mask: &Path,
        encoder: &Encoder,
        term: &Located<Term>,
        diagnostics: &mut Diagnostics,
    ) -> Option<()> {
        let head = encoder.head();
        let voxel_ijk = head.map_or(Some(&[][..]), |head| head.voxel_ijk.as_deref());
        match (selection.count(voxel_ijk), head) {
            (Ok(count), _) if count.in_mask == 0 => {
                self.empty(region, term, diagnostics).note(format!("no voxel of {} fits", mask.display()))
            }
            (Ok(count), Some(head)) if count.predicted == 0 => self.empty(region, term, diagnostics).note(format!(
                "voxels of {} that fit: {}; the head {} predicts none of them",
                mask.display(),
                count.in_mask,
                head.path.display()
            )),
            (Ok(_), _) => return Some(()),
            (Err(error), head) => {
                let head = head.map_or_else(String::new, |head| format!(", head {}", head.path.display()));
                diagnostics
                    .mistake(term.place, format!("region `{region}` of subject {}: {error}", self.name))
                    .note(format!("mask {}{head}", mask.display()))
            }
        };
        None
    }

    fn cluster(
        &self,
        region: &str,
        cluster: &ClusterName,
        term: &Located<Term>,
        files: &mut Files<'_>,
        diagnostics: &mut Diagnostics,
    ) -> Option<ResolvedVoxels> {
        let Some(clusters) = &self.models.clusters else {
            diagnostics
                .mistake(term.place, format!("region `{region}` needs `clusters` under `models`"))
                .note("expected the folder with the clusters of the subject's regions, for example ../derived/clusters/{subject}");
            return None;
        };
        let path = self.places.path(&clusters.value, self.name).join(&cluster.region);
        let wanted = Wanted { key: "clusters", kind: Kind::Cluster, subject: self.name, place: clusters.place };
        let clusters = input::find(&path, wanted, self.known, diagnostics)?;
        if let Input::Content(folder) = &clusters {
            let map = files.volume(&folder.path.join("clusters.nii.gz"), term.place, diagnostics)?;
            let labels = [i32::try_from(cluster.number).unwrap_or(i32::MAX)];
            let selection = volume::Selection { mask: &map.voxels, labels: &labels, above: None };
            self.check(region, &selection, &map.path, self.encoder?, term, diagnostics)?;
        }
        Some(ResolvedVoxels::Cluster { clusters, number: cluster.number })
    }
}
