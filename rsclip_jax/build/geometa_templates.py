"""Sentences that tell where and when an image was taken; `geometa` fills them in."""

# Set -> templates. Of one image, the number of the template is a hash of its id.
TEMPLATES: dict[str, tuple[str, ...]] = {
    "fmow": (
        "A satellite image of {a_label} near {place} in {season}; it fills the {where} of the "
        "picture. {time}, {gsd} m per pixel, UTM zone {utm}.",
        "{a_label_first} near {place}, seen from space in {season} at {time}. It lies in the "
        "{where}. Pixels measure {gsd} m, the UTM zone is {utm}.",
        "Seen from a satellite over {place} at {time}: {a_label} in the {where}. It is {season}; "
        "ground sample distance {gsd} m, UTM zone {utm}.",
        "This overhead view of {place} shows {a_label} in the {where}. It dates from {season}, "
        "{time}, with {gsd} m to a pixel, in UTM zone {utm}.",
        "Near {place}, in {season}, a satellite looked down on {a_label}, here in the {where}. "
        "Taken at {time} in UTM zone {utm}, resolution {gsd} m.",
        "In the {where} of this satellite picture is {a_label}. Place: {place}, UTM zone {utm}. "
        "Time: {time}, in {season}. Ground sample distance: {gsd} m.",
        "Satellite photo, {place}, {time}, {season}: {a_label} occupies the {where}. One pixel "
        "covers {gsd} m of UTM zone {utm}.",
        "A view from orbit of {place} in {season}, with {a_label} in the {where}. Each pixel is "
        "{gsd} m of ground; UTM zone {utm}; {time}.",
        "At {time}, in {season}, this image of {a_label} was taken near {place} (UTM zone {utm}). "
        "Look for it in the {where}, at {gsd} m per pixel.",
        "What you see from above is {a_label} in the {where}, not far from {place}. "
        "{season_first}, {time}; sampling {gsd} m, UTM zone {utm}.",
        "UTM zone {utm}, near {place}: {a_label} as satellites saw it in {season}, at {time}. It "
        "stands in the {where} at {gsd} m a pixel.",
        "The {where} of this remote sensing image hold {a_label}. The scene is near {place}, the "
        "season {season}, the time {time}, the pixel {gsd} m, the UTM zone {utm}.",
        "Remote sensing image from {place}, taken in {season} at {time} and sampled every {gsd} m "
        "in UTM zone {utm}. Its subject, {a_label}, is in the {where}.",
    ),
    "fmow_full": (
        "A satellite image of {a_label} near {place} in {season}, in the {where} of the picture. "
        "{time}, {gsd} m per pixel, UTM zone {utm}, {cloud} % clouds, {scan} scan, target azimuth "
        "{azimuth} degrees, {off_nadir} degrees off nadir.",
        "{a_label_first} near {place}, seen from space in {season} at {time}, lies in the {where}. "
        "Pixels measure {gsd} m in UTM zone {utm}; clouds cover {cloud} %. The {scan} scan looked "
        "{off_nadir} degrees off nadir to azimuth {azimuth}.",
        "Over {place} at {time} a satellite saw {a_label} in the {where}. Season: {season}. Ground "
        "sample distance: {gsd} m. UTM zone: {utm}. Cloud cover: {cloud} %. Scan: {scan}. Azimuth "
        "of the target: {azimuth} degrees. Off nadir: {off_nadir} degrees.",
        "This overhead view of {place} shows {a_label} in the {where}, in {season}, at {time}, "
        "with {gsd} m to a pixel, in UTM zone {utm}. The sky was {cloud} % cloud; the sensor "
        "scanned {scan}, {off_nadir} degrees off nadir, target azimuth {azimuth} degrees.",
        "Scanning {scan} in {season}, a satellite looked {off_nadir} degrees off nadir, towards "
        "azimuth {azimuth}, at {a_label} near {place}. It is in the {where}. UTM zone {utm}, "
        "{time}, resolution {gsd} m, cloud cover {cloud} %.",
        "In the {where} of this satellite picture is {a_label}. Place: {place}, UTM zone {utm}. "
        "Time: {time}, {season}. Sampling {gsd} m, cloud {cloud} %, scan {scan}, azimuth {azimuth} "
        "degrees, off nadir {off_nadir} degrees.",
        "Satellite photo, {place}, {time}, {season}: {a_label} occupies the {where}. One pixel "
        "covers {gsd} m of UTM zone {utm}. View: {off_nadir} degrees off nadir, azimuth {azimuth} "
        "degrees, {scan} scan, {cloud} % clouded.",
        "A view from orbit of {place} in {season}, {cloud} % under cloud, with {a_label} in the "
        "{where}. Each pixel is {gsd} m; UTM zone {utm}; {time}; {scan} scan; {off_nadir} degrees "
        "from nadir; target azimuth {azimuth} degrees.",
        "At {time}, in {season}, this image of {a_label} was taken near {place} (UTM zone {utm}) "
        "by {a_scan} scan {off_nadir} degrees off nadir, target azimuth {azimuth}. Look in the "
        "{where}, at {gsd} m per pixel; {cloud} % is cloud.",
        "What you see from above is {a_label} in the {where}, not far from {place}. "
        "{season_first}, {time}; sampling {gsd} m, UTM zone {utm}, clouds {cloud} %, scan {scan}, "
        "tilt {off_nadir} degrees from nadir, azimuth {azimuth} degrees.",
        "UTM zone {utm}, near {place}: {a_label} as a satellite saw it in {season}, at {time}, in "
        "the {where} at {gsd} m a pixel. Its scan ran {scan}; clouds {cloud} %; off-nadir angle "
        "{off_nadir}, target azimuth {azimuth} degrees.",
        "The {where} of this remote sensing image hold {a_label}. Near {place}; {season}; {time}; "
        "pixel {gsd} m; UTM zone {utm}; cloud cover {cloud} %; {scan} scan; angles {off_nadir} off "
        "nadir and {azimuth} of azimuth, in degrees.",
    ),
    "ben": (
        "A Sentinel-2 image of {labels}, taken in {season} at {time} in UTM zone {utm}.",
        "Land cover seen by Sentinel-2 in {season}: {labels}. UTM zone {utm}, {time}.",
        "This satellite patch from UTM zone {utm} shows {labels}. It was taken in {season}, at "
        "{time}.",
        "In UTM zone {utm}, at {time}, in {season}, Sentinel-2 saw {labels}.",
        "{labels_first}: a satellite view of UTM zone {utm} in {season}, {time}.",
        "From above, in {season}, at {time}: {labels}. The patch lies in UTM zone {utm}.",
        "The ground here is {labels}. Season {season}, UTM zone {utm}, time {time}.",
        "At {time} the satellite passed over UTM zone {utm}; below were {labels}, as they look in "
        "{season}.",
        "A piece of Europe in {season}, with {labels}; UTM zone {utm}, taken at {time}.",
        "Remote sensing image, {season}, {time}, UTM zone {utm}. Land cover: {labels}.",
        "What covers the land in this Sentinel-2 scene is {labels}. Taken in {season} at {time}, "
        "UTM zone {utm}.",
        "Seen in {season} from orbit, UTM zone {utm}: {labels}. The clock said {time}.",
    ),
    "yfcc_place_time": (
        "A photo from {place}, taken in {season} at {time}.",
        "Taken near {place} at {time}, in {season}.",
        "{place}, {season}, {time}.",
        "This picture was made in {season}, at {time}, not far from {place}.",
        "In {season} near {place}; the camera's clock said {time}.",
        "At {time} someone took this picture near {place}, in {season}.",
        "Place: {place}. Time: {time}, in {season}.",
        "A view of the surroundings of {place} in {season}, at {time}.",
        "Photographed in {season} around {place}, {time}.",
        "The scene is near {place}, the season {season}, the time {time}.",
        "{time}, in {season}: a picture from {place}.",
        "Near {place} this is how it looked in {season}, at {time}.",
    ),
    "yfcc_place": (
        "A photo from {place}.",
        "Taken near {place}.",
        "This picture was made not far from {place}.",
        "Place: {place}.",
        "A view of the surroundings of {place}.",
        "Photographed around {place}.",
        "The scene is near {place}.",
        "Near {place} this is how it looks.",
        "Here is a picture whose place is {place}.",
        "The camera stood, or flew, near {place}.",
        "Where this was taken: {place}.",
        "Somewhere around {place}.",
    ),
    "yfcc_time": (
        "A photo taken at {time}.",
        "Taken at {time}.",
        "This picture was made at {time}.",
        "The camera's clock said {time}.",
        "Time: {time}.",
        "At {time} someone took this picture.",
        "Photographed at {time}.",
        "This is how it looked at {time}.",
        "When this was taken: {time}.",
        "Here is a picture whose time is {time}.",
        "The moment: {time}.",
        "Dated {time}.",
    ),
}
